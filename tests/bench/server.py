"""Servers that are measured: in containers, their data in volumes, as in production."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

# Identities of nobody: they protect nothing but the data of tests.
GOLDEN = Path(__file__).resolve().parents[2] / "chom-recovery/src/catalog/tests/golden"


@dataclass
class Engine:
    """A server that is measured, and what its own programs are called."""

    name: str
    image: str
    client: str
    dumper: str
    load_goal: float


ENGINES = {
    "mysql": Engine("mysql", "chom/mysql:9.7", "mysql", "mysqldump", 5),
    "mariadb": Engine("mariadb", "chom/mariadb:11.8", "mariadb", "mariadb-dump", 3.5),
}
# As much as the data of scale 1 needs, and as production would have.
MEMORY = "--innodb-buffer-pool-size=1G"


def docker(*arguments: str, **environment: str) -> str:
    done = subprocess.run(["docker", *arguments], env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"docker {arguments[0]}: {done.stderr}")
    return done.stdout


class Server:
    """A server in a container of its own; `data` is the folder of its data directory, where it is not a volume."""

    def __init__(self, engine: Engine, *flags: str, data: Path | None = None, password: str = "") -> None:
        self.engine = engine
        self.password = password or secrets.token_hex(16)
        self.name = f"chom-bench-{secrets.token_hex(6)}"
        try:
            self.start(flags, data)
            self.until_ready()
        except BaseException:
            self.close()
            raise
        form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        self.address = docker("inspect", "-f", form, self.name).strip()

    def start(self, flags: tuple[str, ...], data: Path | None) -> None:
        place = ["-v", f"{data}:/var/lib/mysql"] if data else []
        docker(
            "run", "-d", "--name", self.name, *place, "-e", "MYSQL_ROOT_PASSWORD", "-e", "MYSQL_ROOT_HOST=%",
            "-e", "MYSQL_INITDB_SKIP_TZINFO=1", self.engine.image, MEMORY, "--local-infile=ON", *flags, MYSQL_ROOT_PASSWORD=self.password,
        )  # fmt: skip

    def until_ready(self) -> None:
        end = time.monotonic() + 180
        # Over TCP: the image's first start answers on its socket alone.
        while self.try_sql("SELECT 1", "--protocol=tcp", "-h127.0.0.1") != 0:
            if time.monotonic() > end:
                sys.exit(f"{self.engine.image} did not start:\n{docker('logs', '--tail', '30', self.name)}")
            time.sleep(0.1)

    def tool(self, name: str, *arguments: str) -> list[str]:
        """A client in the server's own container; the password is in the environment."""
        return ["docker", "exec", "-i", "-e", "MYSQL_PWD", self.name, name, "-uroot", *arguments]

    def try_sql(self, sql: str, *arguments: str) -> int:
        command = self.tool(self.engine.client, *arguments, "-e", sql)
        return subprocess.run(command, env={**os.environ, "MYSQL_PWD": self.password}, capture_output=True, check=False).returncode

    def sql(self, sql: str, schema: str = "", data: Path | None = None) -> str:
        command = self.tool(self.engine.client, "--local-infile=1", "-N", "-e", sql, *([schema] if schema else []))
        with open(data or os.devnull, "rb") as stdin:
            done = subprocess.run(command, env={**os.environ, "MYSQL_PWD": self.password}, stdin=stdin, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(f"{self.engine.name}: {done.stderr}")
        return done.stdout

    def close(self) -> None:
        docker("rm", "-f", "-v", self.name)


class Production(Server):
    """A server of a Compose project, with a configuration for the command line."""

    def __init__(self, engine: Engine, folder: Path, cli: str) -> None:
        self.folder, self.cli, self.id = folder, cli, f"chom-bench-{secrets.token_hex(6)}"
        super().__init__(engine)
        for name in ("operator", "escrow"):
            shutil.copyfile(GOLDEN / f"{name}.identity", folder / name)
            (folder / name).chmod(0o600)
        recipients = [word for key in self.recipients() for word in ("--recipient", key)]
        self.command("repo", "init", "--encryption", "age", "--pin", *recipients, "--escrow-identity", str(folder / "escrow"))

    def start(self, flags: tuple[str, ...], data: Path | None) -> None:
        self.folder.mkdir()
        self.name = f"{self.id}-db-1"
        self.file = self.folder / "compose.yaml"
        self.file.write_text(
            f"services:\n  db:\n    image: {self.engine.image}\n    command: ['{MEMORY}', '--local-infile=ON']\n"
            "    environment: {MYSQL_ROOT_PASSWORD: '${BENCH_PASSWORD}', MYSQL_ROOT_HOST: '%', MYSQL_INITDB_SKIP_TZINFO: '1'}\n"
            "    volumes: ['data:/var/lib/mysql']\nvolumes: {data: {}}\n"
        )
        (self.folder / "chom-recovery.toml").write_text(
            f'id = "bench"\nstate_dir = "{self.folder}/state"\n[compose]\nproject = "{self.id}"\nfiles = ["{self.file}"]\n'
            f'[database]\nservice = "db"\npassword = {{ env = "BENCH_PASSWORD" }}\n'
            f'[application]\nservice = "db"\nweb_service = "db"\nworkers = []\nmaintenance = {{ kind = "none" }}\n'
            f'[repository]\nurl = "file:{self.folder}/repository"\nidentity = [{{ file = "{self.folder}/operator" }}]\n'
        )
        self.compose("up", "-d")

    def compose(self, *arguments: str) -> None:
        docker("compose", "-p", self.id, "-f", str(self.file), *arguments, BENCH_PASSWORD=self.password)

    @staticmethod
    def recipients() -> list[str]:
        key = "# public key: "
        lines = [line for name in ("operator", "escrow") for line in (GOLDEN / f"{name}.identity").read_text().splitlines()]
        return [line.removeprefix(key) for line in lines if line.startswith(key)]

    def argv(self, *arguments: str) -> list[str]:
        return [self.cli, "--config", str(self.folder / "chom-recovery.toml"), *arguments]

    def command(self, *arguments: str) -> str:
        done = subprocess.run(self.argv(*arguments), env={**os.environ, "BENCH_PASSWORD": self.password}, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(f"chom-recovery {' '.join(arguments)}: {done.stderr}{done.stdout}")
        return done.stdout

    def close(self) -> None:
        self.compose("down", "-v", "-t", "1")
