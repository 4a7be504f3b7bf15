"""What every benchmark does: run programs, weigh them against each other, print a table and keep it.

Every run is a process of its own, so that wall time, CPU and peak memory are the kernel's word. The median counts.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

# Longest time that a snapshot may keep writers out.
LOCK_MS = 100


@dataclass
class Cost:
    """What a process took."""

    wall: float
    cpu: float
    peak_mb: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.wall + other.wall, self.cpu + other.cpu, max(self.peak_mb, other.peak_mb))


def run(argv: list[str], told: Path = Path(os.devnull), **environment: str) -> Cost:
    """Runs a program to its end; what it prints goes to `told`."""
    os.sync()
    begun = time.monotonic()
    to = (os.POSIX_SPAWN_OPEN, 1, str(told), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    pid = os.posix_spawnp(argv[0], argv, {**os.environ, **environment}, file_actions=[to])
    _, status, usage = os.wait4(pid, 0)
    wall = time.monotonic() - begun
    if os.waitstatus_to_exitcode(status) != 0:
        sys.exit(f"{' '.join(argv)}: exit status {status}")
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def apart(work: Callable[..., None], *arguments: object) -> None:
    """Works in a process of its own: the kernel counts what this one has held into the peak of those that it starts."""
    process = multiprocessing.get_context("spawn").Process(target=work, args=arguments)
    process.start()
    process.join()
    if process.exitcode != 0:
        sys.exit(f"{work.__name__} failed")


def files_below(path: Path) -> Iterator[os.DirEntry[str]]:
    """Walks a tree without holding it in memory."""
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from files_below(Path(entry.path))
            elif entry.is_file(follow_symlinks=False):
                yield entry


def stored_mb(path: Path) -> float:
    """Bytes of a file or of all files below a folder, in MB."""
    return (path.stat().st_size if path.is_file() else sum(file.stat().st_size for file in files_below(path))) / 1e6


def median(costs: list[Cost]) -> Cost:
    return Cost(
        statistics.median(c.wall for c in costs),
        statistics.median(c.cpu for c in costs),
        max(c.peak_mb for c in costs),
    )


@dataclass
class Table:
    """Measurements of one benchmark, and the rows made of them."""

    costs: dict[str, list[Cost]] = field(default_factory=dict)
    rows: list[dict[str, object]] = field(default_factory=list)

    def note(self, what: str, cost: Cost) -> None:
        self.costs.setdefault(what, []).append(cost)
        print(f"{what:36} {cost.wall:7.2f} s wall {cost.cpu:7.2f} s CPU {cost.peak_mb:7.0f} MB peak", file=sys.stderr)

    def row(self, work: str, engine: str, ours: str, peer: str, stored: float, goal: float, peak: int, lock: list[float] | None = None) -> None:
        """How often `ours` fits into the time of `peer`; a goal of 0 is none. `lock` is how long writers were kept out, in ms."""
        mine, other = median(self.costs[ours]), median(self.costs[peer])
        ratio = other.wall / mine.wall
        locked = {"lock_ms": round(statistics.median(lock), 1)} if lock else {}
        wanted = [f"ratio >= {goal}"] * (goal > 0) + [f"peak < {peak} MB"] + [f"lock < {LOCK_MS} ms"] * bool(lock)
        self.rows.append(
            {
                "work": work,
                "engine": engine,
                "ours_s": round(mine.wall, 2),
                "ours_cpu_s": round(mine.cpu, 2),
                "peer": peer,
                "peer_s": round(other.wall, 2),
                "peer_cpu_s": round(other.cpu, 2),
                "peer_peak_mb": round(other.peak_mb),
                "ratio": round(ratio, 2),
                "peak_mb": round(mine.peak_mb),
                "stored_mb": round(stored, 1),
                **locked,
                "goal": ", ".join(wanted),
                "met": ratio >= goal and mine.peak_mb < peak and (not lock or max(lock) < LOCK_MS),
            }
        )

    def finish(self) -> int:
        """Prints the rows and puts them in the place of older ones of the same engines; 0 if every goal was met."""
        print(f"{'work':28} {'ours s':>8} {'peer':22} {'peer s':>8} {'ratio':>6} {'peak MB':>8} {'stored MB':>10}  goal")
        for r in self.rows:
            verdict = "met" if r["met"] else "MISSED"
            print(
                f"{r['work']:28} {r['ours_s']:8.2f} {r['peer']:22} {r['peer_s']:8.2f} {r['ratio']:6.2f} {r['peak_mb']:8} {r['stored_mb']:10.1f}  {r['goal']}: {verdict}"
            )
        file = Path("target/bench.json")
        kept = json.loads(file.read_text()) if file.exists() else []
        engines = {r["engine"] for r in self.rows}
        kept = [r for r in kept if r.get("engine") not in engines]
        file.write_text(json.dumps(kept + self.rows, indent=2) + "\n")
        return 0 if all(r["met"] for r in self.rows) else 1
