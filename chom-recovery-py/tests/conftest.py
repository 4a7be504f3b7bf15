from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Stack:
    """A running project of the reference stack (`tests/stack/up.sh`), as its `facts.json` tells."""

    facts: dict[str, Any]

    @property
    def project(self) -> str:
        return str(self.facts["project"])

    def config(self, folder: Path, signers: tuple[str, ...] = ()) -> dict[str, Any]:
        """Describes the stack, with state and backups below `folder`."""
        # The store is a folder that somebody provides: a missing one may be a disk that is not mounted.
        (folder / "backups").mkdir(exist_ok=True)
        checks = {"health": "/health", "status": "/api/status"}
        return {
            "id": "chom",
            "state_dir": folder / "state",
            "compose": {
                "project": self.project,
                "files": [self.facts["compose"]],
                "env_files": [self.facts["env"]],
            },
            "database": {"service": "mysql", "password": {"file": self.facts["db_root_password_file"]}},
            "application": {
                "newest_row": ["chom.audit_log.created_at"],
                "logs": ["/srv/app/storage/logs/laravel.log"],
                "soak": "5s",
                "maintenance": {"kind": "laravel", "directory": "/srv/app", "user": "www-data"},
            },
            "redis": {
                "service": "redis",
                "prefix": self.facts["redis_prefix"],
                "heartbeat_key": "scheduler:heartbeat",
            },
            "http": [
                {
                    "name": name,
                    "url": f"{self.facts['url']}{path}",
                    "contains": '"status":"ok"',
                    "ca_file": self.facts["ca"],
                    "connect_to": f"127.0.0.1:{self.facts['port']}",
                    "slow_after": "10s",
                }
                for name, path in checks.items()
            ],
            "repository": {"url": f"file:{folder}/backups", "signers": list(signers)},
        }

    def secrets(self) -> list[str]:
        """Reads the secrets that the project was made with."""
        site = Path(self.facts["site"])
        files = [site / "secrets" / name for name in ("db_root_password", "db_app_password", "synthetic_password")]
        key = next(line for line in Path(self.facts["env"]).read_text().splitlines() if line.startswith("APP_KEY="))
        return [*(file.read_text().strip() for file in files), key.removeprefix("APP_KEY=base64:")]

    def sql(self, statement: str) -> str:
        """Runs SQL as root with the server's own client: another way in than the one under test."""
        password = Path(self.facts["db_root_password_file"]).read_text().strip()
        script = (
            "IFS= read -r MYSQL_PWD; export MYSQL_PWD; "
            'exec "$(command -v mysql || command -v mariadb)" -uroot --batch --skip-column-names chom'
        )
        done = subprocess.run(
            ["docker", "compose", "-f", self.facts["compose"], "exec", "-T", "mysql", "sh", "-c", script],
            input=f"{password}\n{statement}\n",
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def shell(self, service: str, command: str) -> str:
        """Runs a command in a service's container."""
        return self.compose("exec", "-T", service, "sh", "-c", command)

    def compose(self, *arguments: str) -> str:
        """Runs a command of `docker compose`."""
        done = subprocess.run(
            ["docker", "compose", "-f", self.facts["compose"], *arguments],
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def forget_kept_volumes(self) -> None:
        """Removes what recoveries kept as undo, which no `docker compose down` knows of."""
        kept = f"{self.project}_mysql_data__r_"
        listed = subprocess.run(
            ["docker", "volume", "ls", "--quiet", "--filter", f"name=^{kept}"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        for volume in listed.stdout.split():
            subprocess.run(["docker", "volume", "rm", volume], capture_output=True, timeout=60, check=True)


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    if os.environ.get("CHOM_TEST_STACK") != "1":
        pytest.skip("CHOM_TEST_STACK is not 1: no project of the reference stack may be broken")
    facts = os.environ.get("CHOM_TEST_FACTS")
    assert facts, "CHOM_TEST_STACK is 1, and CHOM_TEST_FACTS does not name the project's facts.json"
    opened = Stack(json.loads(Path(facts).read_text()))
    yield opened
    opened.forget_kept_volumes()
