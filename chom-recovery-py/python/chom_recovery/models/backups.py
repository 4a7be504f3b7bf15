"""Backups and their copies."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from .common import ErrorRecord


@dataclass(frozen=True, slots=True)
class Initialized:
    """A new repository.

    `signer` belongs into `repository.signers` of the configuration, `recipients` are `repository.recipients`.
    """

    repository: str
    signer: str
    recipients: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """Where a backup lies, and whose it is."""

    host: str
    system: str
    id: str


@dataclass(frozen=True, slots=True)
class DatabaseFacts:
    """The server that a backup was made from."""

    flavour: str
    version: str
    server_uuid: str | None
    gtid_set: str | None


@dataclass(frozen=True, slots=True)
class BackupInfo:
    """A backup. Lengths are in bytes.

    Attributes:
        point: The moment whose data it holds.
        committed: When it became complete, by the store's clock.
        stored_len: Bytes in the store.
        plain_len: Bytes once decompressed.
        level: Deepest verification that it passed, `L1` to `L4`; `None`: never verified, or the newest one failed.
        is_future_dated: Its id lies in the store's future, so that it is never chosen as latest.
        is_salvaged: It was read from a damaged server, may lack rows, and is chosen only by its id.
    """

    id: str
    system: str
    host: str
    repository: str
    point: datetime
    committed: datetime
    stored_len: int
    plain_len: int
    components: tuple[str, ...]
    database: DatabaseFacts | None
    tags: tuple[str, ...]
    warnings: tuple[str, ...]
    level: str | None
    verified: datetime | None
    signer: str
    is_future_dated: bool
    manifest_damage: ErrorRecord | None = None
    is_salvaged: bool = False


@dataclass(frozen=True, slots=True)
class LegacyBackup:
    """A backup that another program made.

    Attributes:
        legacy: Path below the configured directory; `"legacy:" + legacy` names it.
        point: The moment whose data it holds, as far as it is known.
        told_by: What tells that moment: `name`, `content` or `file`.
    """

    legacy: str
    kind: str
    is_increment: bool
    point: datetime
    told_by: str
    stored_len: int
    warnings: tuple[str, ...]
    plain_len: int | None = None


@dataclass(frozen=True, slots=True)
class Damaged:
    """A backup that is there and cannot be used."""

    id: str
    system: str
    host: str
    error: ErrorRecord


@dataclass(frozen=True, slots=True)
class Listing:
    """All backups of a system that a repository holds, oldest first.

    Attributes:
        now: Time of the store when they were listed.
        problems: What could not be listed: while there is something here, a newer backup may exist.
    """

    system: str
    now: datetime
    backups: tuple[BackupInfo, ...]
    damaged: tuple[Damaged, ...]
    others: tuple[Place, ...]
    problems: tuple[ErrorRecord, ...]


@dataclass(frozen=True, slots=True)
class Verification:
    """What reading every byte of a backup found: `findings_total` is 0 where nothing is wrong."""

    backup: str
    level: str
    parts: int
    stored_len: int
    findings_total: int


@dataclass(frozen=True, slots=True)
class CopiedBackup:
    """A backup that was copied, and read back there.

    Attributes:
        objects: Objects that were written.
        bytes: Their bytes.
        present: Objects that were there already.
        recorded: Whether the verification was signed and recorded in the copy.
    """

    backup: str
    objects: int
    bytes: int
    present: int
    verification: Verification
    recorded: bool


@dataclass(frozen=True, slots=True)
class NotCopied:
    """A backup that could not be copied, and why."""

    backup: str
    error: ErrorRecord


@dataclass(frozen=True, slots=True)
class CopyReport:
    """What a call to copy backups did; `present` counts those that the copy had before."""

    copied: tuple[CopiedBackup, ...]
    failed: tuple[NotCopied, ...]
    present: int
