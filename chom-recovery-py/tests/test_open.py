"""The way into the extension, as far as it needs no Engine."""

from __future__ import annotations

import logging
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

import chom_recovery
from chom_recovery import Recovery
from chom_recovery._arguments import selector
from chom_recovery.exceptions import InvalidInputError, NotFoundError, UnreachableError

if TYPE_CHECKING:
    from pathlib import Path


def config(folder: Path, **changes: Any) -> dict[str, Any]:
    return {
        "id": "chom",
        "state_dir": folder / "state",
        "compose": {"project": "chom", "host": f"unix://{folder}/nobody.sock"},
        "database": {"service": "mysql", "password": {"env": "DB_PASSWORD"}, "stop_grace": timedelta(minutes=1)},
        "repository": {"url": f"file:{folder}/backups"},
        **changes,
    }


async def test_a_missing_file_is_a_file_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as missing:
        await Recovery.open(tmp_path / "none.toml")
    assert isinstance(missing.value, NotFoundError)
    assert "none.toml" in str(missing.value)
    assert missing.value.hint is not None


async def test_a_wrong_key_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="rpository"):
        await Recovery.open(config(tmp_path, rpository={}))


async def test_rules_hold_for_mappings_as_for_files(tmp_path: Path) -> None:
    both = {"project": "chom", "host": "unix:///x", "context": "y"}
    with pytest.raises(InvalidInputError, match="exclude each other"):
        await Recovery.open(config(tmp_path, compose=both))


async def test_what_json_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="cannot hold set"):
        await Recovery.open(config(tmp_path, contacts={1, 2}))


async def test_an_engine_that_does_not_answer_is_a_connection_error(tmp_path: Path) -> None:
    with pytest.raises(ConnectionError) as unreachable:
        await Recovery.open(config(tmp_path))
    assert isinstance(unreachable.value, UnreachableError)
    assert unreachable.value.code == "unreachable"


def test_a_forked_child_is_told_instead_of_hanging(tmp_path: Path) -> None:
    script = f"""
import asyncio, os, sys
from chom_recovery import Recovery

async def opens():
    try:
        await Recovery.open({str(tmp_path / "none.toml")!r})
    except FileNotFoundError:
        return "missing"

assert asyncio.run(opens()) == "missing"
child = os.fork()
if child == 0:
    try:
        asyncio.run(opens())
    except RuntimeError as e:
        os._exit(7 if "spawn" in str(e) else 1)
    os._exit(1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", script], timeout=60, check=False)
    assert done.returncode == 7


def test_importing_leaves_logging_alone() -> None:
    assert logging.getLogger("chom_recovery").handlers == []


def test_the_version_is_that_of_the_library() -> None:
    assert chom_recovery.__version__.count(".") == 2


@pytest.mark.parametrize(
    ("which", "wanted"),
    [
        ("latest", "latest"),
        ("previous", {"previous": 1}),
        ("tag:before-upgrade", {"tag": "before-upgrade"}),
        ("01K9A6", {"id": "01K9A6"}),
        (datetime(2026, 11, 23, 10, tzinfo=UTC), {"timestamp": "2026-11-23T10:00:00+00:00"}),
    ],
)
def test_backups_are_chosen_as_on_the_command_line(which: str | datetime, wanted: Any) -> None:
    assert selector(which) == wanted


def test_a_time_without_zone_is_no_moment() -> None:
    with pytest.raises(ValueError, match="no time zone"):
        selector(datetime(2026, 11, 23, 10))
