"""Measures backup and restore of a file tree: ours, the runbook's tar and gzip, and restic.

Runs alternate. The tree is in the page cache for all of them. Ours makes everything durable before it ends; tar does not.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import sys
import tempfile
from pathlib import Path

from measure import Cost, Table, apart, files_below, run, stored_mb

MIB = 1 << 20
SMALL = 100_000
LARGE = [(96, 0.0), (64, 0.0), (64, 1.0), (48, 1.0), (48, 0.5), (32, 0.5), (32, 0.0), (24, 1.0), (24, 0.5), (16, 0.0), (16, 1.0)]


def make_tree(root: Path, scale: float) -> None:
    """Makes the same tree every time: code and logs that compress, pictures and archives that do not."""
    dice = random.Random(20260301)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(dice.choices(letters, k=dice.randint(2, 11))) for _ in range(6000)]
    glue = [" ", " ", " ", "\n    ", "->", "::", "('", "');\n", " = $", ", ", " {\n", "}\n\n", " // ", "\t"]
    weights = [1 / (rank + 3) for rank in range(len(words))]
    chosen = dice.choices(words, weights, k=5_000_000)
    between = dice.choices(glue, k=len(chosen))
    text = "".join(word + space for word, space in zip(chosen, between)).encode()
    noise = dice.randbytes(32 * MIB)

    def content(size: int, share_of_noise: float) -> bytes:
        pool = noise if dice.random() < share_of_noise else text
        parts = []
        while size > 0:
            piece = min(size, 4 * MIB)
            begin = dice.randrange(len(pool) - piece)
            parts.append(pool[begin : begin + piece])
            size -= piece
        return b"".join(parts)

    for number in range(int(SMALL * scale)):
        folder = root / f"vendor/package-{number // 400:03d}/src/{number // 40 % 10}"
        if number % 40 == 0:
            folder.mkdir(parents=True, exist_ok=True)
        size = min(int(dice.lognormvariate(8.8, 1.1)), 400_000)
        (folder / f"Class{number:06d}.php").write_bytes(content(size, 0.12))
    (root / "storage/app/uploads").mkdir(parents=True)
    for number, (size, share) in enumerate(LARGE):
        (root / f"storage/app/uploads/large-{number:02d}.bin").write_bytes(content(int(size * MIB * scale), share))
    (root / ".env").write_text("APP_KEY=base64:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--scale", type=float, default=100, help="size of the tree, in percent")
    parser.add_argument("--folder", type=Path, default=None, help="where to work; needs about four times the tree")
    arguments = parser.parse_args()
    program = str(Path(arguments.program).resolve())

    with tempfile.TemporaryDirectory(prefix="bench-files-", dir=arguments.folder) as name:
        work = Path(name)
        tree = work / "tree"
        tree.mkdir()
        print("making the tree", file=sys.stderr)
        apart(make_tree, tree, arguments.scale / 100)
        plain_mb = stored_mb(tree)
        files = sum(1 for _ in files_below(tree))
        restic = {"RESTIC_PASSWORD": "bench", "RESTIC_CACHE_DIR": str(work / "restic-cache")}
        table = Table()
        note = table.note
        sizes: dict[str, float] = {}

        for _ in range(arguments.runs):
            ours, theirs, archive, target = work / "ours", work / "restic", work / "tree.tar.gz", work / "target"
            for path in (ours, theirs, target):
                shutil.rmtree(path, ignore_errors=True)
            run([program, "init", str(ours)])
            run(["restic", "init", "-q", "-r", str(theirs)], **restic)

            note("ours backup", run([program, "backup", str(ours), str(tree)]))
            note("tar czf", run(["tar", "czf", str(archive), "-C", str(tree), "."]))
            note("restic backup", run(["restic", "backup", "-q", "-r", str(theirs), str(tree)], **restic))
            sizes |= {"ours": stored_mb(ours), "tar": stored_mb(archive), "restic": stored_mb(theirs)}
            note("ours backup again", run([program, "backup", str(ours), str(tree)]))
            note("restic backup again", run(["restic", "backup", "-q", "-r", str(theirs), str(tree)], **restic))
            sizes["ours again"] = stored_mb(ours) - sizes["ours"]

            note("ours restore", run([program, "restore", str(ours), str(target)]))
            apart(check_same, tree, target)
            shutil.rmtree(target)
            target.mkdir()
            note("tar xzf", run(["tar", "xzf", str(archive), "-C", str(target)]))
            shutil.rmtree(target)
            note("restic restore", run(["restic", "restore", "-q", "-r", str(theirs), "latest", "--target", str(target)], **restic))

        many = work / "many"
        number = int(10_000 * arguments.scale / 100)
        print(f"taking {number} backups", file=sys.stderr)
        # In memory first: each one is made durable on its own, which is not what is measured here.
        with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else work) as filled:
            run([program, "init", f"{filled}/many"])
            run([program, "fill", f"{filled}/many", str(number)])
            apart(shutil.copytree, f"{filled}/many", many)
        for _ in range(arguments.runs):
            note("ours list", run([program, "list", str(many), str(number)]))
        sizes["many"] = stored_mb(many)

    # What is asked of a list is a time: it has no peer.
    table.costs["limit of 1 s"] = [Cost(1, 0, 0)]

    def row(work: str, ours: str, peer: str, stored: float, goal: float) -> None:
        table.row(work, "files", ours, peer, stored, goal, peak=150)

    row("backup of a tree", "ours backup", "tar czf", sizes["ours"], 4)
    row("backup of a tree", "ours backup", "restic backup", sizes["ours"], 1.5)
    row("restore of a tree", "ours restore", "tar xzf", sizes["ours"], 1)
    row("restore of a tree", "ours restore", "restic restore", sizes["ours"], 1)
    row(f"list of {number} backups", "ours list", "limit of 1 s", sizes["many"], 1)
    row("backup of an unchanged tree", "ours backup again", "restic backup again", sizes["ours again"], 0)
    print(f"{files} files, {plain_mb:.0f} MB; stored: ours {sizes['ours']:.0f} MB, tar {sizes['tar']:.0f} MB, restic {sizes['restic']:.0f} MB; median of {arguments.runs}")
    return table.finish()


def check_same(tree: Path, target: Path) -> None:
    """A fast restore of something else would be worth nothing."""
    for file in tree.rglob("*"):
        other = target / file.relative_to(tree)
        mine, theirs = file.lstat(), other.lstat()
        same = (mine.st_mode, mine.st_mtime_ns, mine.st_uid) == (theirs.st_mode, theirs.st_mtime_ns, theirs.st_uid)
        if not same or (file.is_file() and file.read_bytes() != other.read_bytes()):
            sys.exit(f"{other} differs from {file}")


if __name__ == "__main__":
    sys.exit(main())
