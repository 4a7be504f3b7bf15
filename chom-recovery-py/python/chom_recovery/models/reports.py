"""What recoveries achieved."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from .backups import BackupInfo, LegacyBackup


class Finding(enum.StrEnum):
    """What a restore decision hangs on."""

    HEALTHY = "healthy"
    STOPPED = "stopped"
    CREDENTIALS_REFUSED = "credentials_refused"
    DISK_FULL = "disk_full"
    DAMAGED = "damaged"
    DATA_MISSING = "data_missing"
    UNCLEAR = "unclear"


@dataclass(frozen=True, slots=True)
class Achieved:
    """An objective beside what was measured, in seconds."""

    objective_s: float
    achieved_s: float
    is_met: bool


@dataclass(frozen=True, slots=True)
class Assessment:
    """What was wrong with the database."""

    finding: Finding
    summary: str
    server: str | None
    missing_tables: tuple[str, ...]
    corrupt_tables: tuple[str, ...]
    next_ids: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Verified:
    """What was compared with the backup before the swap, and found equal."""

    tables: int
    rows: int
    definitions: int


@dataclass(frozen=True, slots=True)
class Filled:
    """How the files of a physical backup came to their place.

    Attributes:
        from_kept_copy: The copy that was kept unpacked was moved there; else they were unpacked from the repository.
        took_ms: How long that took, proofs included.
        kept_copy_refused: Why a kept copy that was there was not used.
    """

    from_kept_copy: bool
    took_ms: int
    kept_copy_refused: str | None = None


@dataclass(frozen=True, slots=True)
class KeptVolume:
    """The volume that holds what production had before; `bytes` is its size."""

    volume: str
    bytes: int


@dataclass(frozen=True, slots=True)
class RaisedCounter:
    """An AUTO_INCREMENT value that was raised above lost ids."""

    table: str
    from_: int
    to: int


@dataclass(frozen=True, slots=True)
class HeldKey:
    """A queue that was set aside as a whole."""

    key: str
    held_as: str
    jobs: int


@dataclass(frozen=True, slots=True)
class HeldJobs:
    """Queued jobs set aside for review."""

    keys: tuple[HeldKey, ...]

    @property
    def count(self) -> int:
        """Number of jobs."""
        return sum(key.jobs for key in self.keys)


@dataclass(frozen=True, slots=True)
class Restored:
    """What took the place of the old data; `chosen_because` says why this backup, where nobody named it."""

    backup: BackupInfo | LegacyBackup
    verified: Verified
    kept: KeptVolume
    newest_rows: Mapping[str, str]
    raised: tuple[RaisedCounter, ...]
    held: HeldJobs
    chosen_because: str = ""
    filled: Filled | None = None


@dataclass(frozen=True, slots=True)
class DatabaseReport:
    """What a database recovery achieved, measured.

    Attributes:
        restored: `None`: starting the server was enough.
        rto: From the begin of the run to users being served again.
        rpo: From the backup's snapshot to the begin of the incident; `None` where no data was replaced.
        new_backup: Backup taken and verified after the recovery.
        to_review: What is left for a person to look at.
    """

    assessment: Assessment
    restored: Restored | None
    rto: Achieved
    rpo: Achieved | None
    database_at: datetime
    service_at: datetime
    new_backup: str | None
    to_review: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Measured:
    """A value before and after a recovery; `None`: it could not be measured."""

    name: str
    unit: str
    before: float | None
    after: float | None


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a recovery of a part of the system found, did and achieved.

    Attributes:
        found: What was wrong, a line each.
        done: What was done about it; empty: nothing had to be.
        measured: Values before and after, where the procedure measures.
        rto: From the begin of the run to the proof.
        to_review: What is left for a person to look at.
    """

    found: tuple[str, ...]
    done: tuple[str, ...]
    rto: Achieved
    to_review: tuple[str, ...]
    measured: tuple[Measured, ...] = ()


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What was put in place; `bytes` counts the holes of files as well."""

    files: int
    folders: int
    hard_links: int
    symlinks: int
    bytes: int
    outward_links: int
    setid_dropped: int


@dataclass(frozen=True, slots=True)
class FilesReport:
    """What a restore of files put in place.

    Attributes:
        path: The folder, on the Engine's host.
        kept: Where that lies now which was there before.
        carried: Entries that the backup leaves out on purpose, and that stayed as they were.
        objects_from_copy: Objects that are damaged in the repository, and were read from its copy.
        restarted: Services that were stopped for it and run again.
        outage_s: From the moment that they were stopped until they were proven.
    """

    backup: BackupInfo
    component: str
    path: str
    kept: str
    unpacked: Unpacked
    carried: int
    objects_from_copy: int
    restarted: tuple[str, ...]
    outage_s: float
