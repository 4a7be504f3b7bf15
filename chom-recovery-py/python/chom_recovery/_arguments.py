"""Arguments of Python, as the core reads them."""

from __future__ import annotations

import getpass
import json
import os
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

from . import models
from .exceptions import InvalidInputError

Which: TypeAlias = str | datetime | models.BackupInfo


def run_options(by: str, waive: Mapping[str, str] | None, *, is_confirmed: bool) -> str:
    waivers = [{"item": item, "because": because, "by": by} for item, because in (waive or {}).items()]
    return json.dumps({"operator": by, "waivers": waivers, "confirmed": is_confirmed})


def selector(which: Which) -> str | dict[str, Any]:
    if isinstance(which, models.BackupInfo):
        return {"id": which.id}
    if isinstance(which, datetime):
        return {"timestamp": moment(which)}
    if which == "latest":
        return "latest"
    if which == "previous":
        return {"previous": 1}
    if which.startswith("legacy:"):
        return {"legacy": which.removeprefix("legacy:")}
    if which.startswith("tag:"):
        return {"tag": which.removeprefix("tag:")}
    return {"id": which}


def database_request(backup: Which, kind: str, extent: str, incident_began: datetime | None) -> dict[str, Any]:
    began = moment(incident_began)
    return {"backup": selector(backup), "kind": kind, "extent": extent, "incident_began": began}


def named_request(named: Mapping[str, Any]) -> dict[str, Any]:
    return {name: selector(value) if name == "backup" else value for name, value in named.items()}


def several(what: str, names: Iterable[str]) -> list[str]:
    if isinstance(names, str):
        raise TypeError(f"`{what}` is one string; put it into a list")
    return list(names)


def table_name(text: str) -> dict[str, str]:
    match text.split("."):
        case [schema, name] if schema and name:
            return {"schema": schema, "name": name}
    raise InvalidInputError(f"`{text}` is not schema.table", code="invalid_input")


def moment(time: datetime | None) -> str | None:
    if time is None:
        return None
    if time.tzinfo is None:
        raise InvalidInputError(
            f"`{time}` has no time zone", code="invalid_input", hint="make it aware: `datetime.now(UTC)`"
        )
    return time.astimezone(UTC).isoformat()


def plain(value: object) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, timedelta):
        return f"{value // timedelta(milliseconds=1)}ms"
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a configuration cannot hold {type(value).__name__}")


def login() -> str:
    # The person behind `sudo`, not the account that it lends.
    if name := os.environ.get("SUDO_USER"):
        return name
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # No name for this uid, as in many containers.
        return f"uid {os.getuid()}"
