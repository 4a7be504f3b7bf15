"""What is read of a damaged server."""

from __future__ import annotations

from dataclasses import dataclass

from .backups import BackupInfo


@dataclass(frozen=True, slots=True)
class KeyRange:
    """What lies between two keys, as a statement writes them; neither is in it, and `None` is an end of the table."""

    after: str | None
    before: str | None


@dataclass(frozen=True, slots=True)
class SalvagedTable:
    """What became of a table of a damaged server.

    Attributes:
        extent: `whole`, `part` or `nothing`.
        rows: Rows that were read.
        level: Level of forced recovery at which it was read; 0: none.
        unread: Ranges of its primary key that were not read.
        why: Why it is not whole.
    """

    schema: str
    table: str
    extent: str
    rows: int
    level: int
    unread: tuple[KeyRange, ...] = ()
    why: str | None = None


@dataclass(frozen=True, slots=True)
class Lost:
    """A definition that could not be read."""

    what: str
    why: str


@dataclass(frozen=True, slots=True)
class Attempt:
    """A level of forced recovery at which no server came up, or none stayed."""

    level: int
    why: str


@dataclass(frozen=True, slots=True)
class SalvageReport:
    """What was read of a server that does not start any more.

    Attributes:
        backup: The backup that holds it, to be named by its id.
        level: Level of forced recovery at which the server came up on the copy; 0: without.
        whole: Tables that were read to their end.
        part: Tables of which some rows were read.
        nothing: Tables of which no row was read.
        damaged_pages: Damaged pages of the data files, as the first of each file.
    """

    backup: BackupInfo
    level: int
    attempts: tuple[Attempt, ...]
    rows: int
    whole: int
    part: int
    nothing: int
    tables: tuple[SalvagedTable, ...]
    lost: tuple[Lost, ...]
    damaged_pages: tuple[str, ...]
