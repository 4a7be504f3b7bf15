"""What the library returns: frozen values, compared by content. Times are aware, in UTC."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Any

__all__ = [
    "Achieved",
    "Answer",
    "Assessment",
    "Attempt",
    "BackupInfo",
    "CheckSummary",
    "Damaged",
    "DatabaseFacts",
    "DatabaseReport",
    "Diagnosis",
    "ErrorRecord",
    "Estimate",
    "Filled",
    "Finding",
    "HealthMode",
    "HealthReport",
    "HeldJobs",
    "HeldKey",
    "Initialized",
    "KeptVolume",
    "KeyRange",
    "LegacyBackup",
    "Listing",
    "Lost",
    "Place",
    "Plan",
    "PlanItem",
    "Question",
    "RaisedCounter",
    "Restored",
    "RunStatus",
    "RunSummary",
    "Runs",
    "SalvageReport",
    "SalvagedTable",
    "Status",
    "StepSummary",
    "Triage",
    "Verified",
]


def _nothing() -> Mapping[str, str]:
    return MappingProxyType({})


class HealthMode(enum.StrEnum):
    """What a health suite is for."""

    FULL = "full"
    """Everything."""
    PRE_RECOVERY = "pre-recovery"
    """Everything that tells what is broken."""
    POST_RECOVERY = "post-recovery"
    """Everything that proves the service."""
    MONITORING = "monitoring"
    """Cheap enough to be asked every minute."""


class Status(enum.StrEnum):
    """The four answers of a probe."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    INCONCLUSIVE = "inconclusive"
    """The probe could not tell; never counted as healthy."""
    DOWN = "down"


class Finding(enum.StrEnum):
    """What a restore decision hangs on."""

    HEALTHY = "healthy"
    STOPPED = "stopped"
    CREDENTIALS_REFUSED = "credentials_refused"
    DISK_FULL = "disk_full"
    DAMAGED = "damaged"
    DATA_MISSING = "data_missing"
    UNCLEAR = "unclear"


class RunStatus(enum.StrEnum):
    """Where a run stands."""

    RUNNING = "running"
    """A process is at it."""
    INTERRUPTED = "interrupted"
    """Its process ended without a word: resume it."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    PAUSED = "paused"
    """Waits for a person."""
    ROLLING_BACK = "rolling_back"
    ROLLED_BACK = "rolled_back"
    ABANDONED = "abandoned"


@dataclass(frozen=True, slots=True)
class ErrorRecord:
    """An error that is part of an answer."""

    kind: str
    message: str
    context: tuple[tuple[str, str], ...] = ()
    hint: str | None = None
    causes: tuple[str, ...] = ()


# ---- health ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer of one probe."""

    probe: str
    status: Status
    summary: str
    latency_ms: int
    facts: Mapping[str, str] = field(default_factory=_nothing)


@dataclass(frozen=True, slots=True)
class HealthReport:
    """Answers of a suite. `overall` is the worst; inconclusive counts as worse than degraded."""

    mode: HealthMode
    overall: Status
    answers: tuple[Answer, ...]
    started: datetime
    took_ms: int

    @property
    def is_healthy(self) -> bool:
        """Whether every probe found its object as it should be."""
        return self.overall is Status.HEALTHY

    def answer(self, probe: str) -> Answer | None:
        """Finds an answer by the name of its probe."""
        return next((a for a in self.answers if a.probe == probe), None)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A hypothesis about what is broken. `cause` is its stable name; `confidence` is in percent, for ranking only."""

    cause: str
    hypothesis: str
    procedure: str
    confidence: int
    evidence: tuple[str, ...]
    disproved_by: str
    advice: str
    command: str | None = None


@dataclass(frozen=True, slots=True)
class Triage:
    """What was seen, and what it may mean, most probable first."""

    health: HealthReport
    diagnoses: tuple[Diagnosis, ...]


# ---- backups ---------------------------------------------------------------------------------------------------------


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


# ---- recoveries ------------------------------------------------------------------------------------------------------


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


@dataclass(frozen=True, slots=True)
class Question:
    """What a person is asked."""

    run: str
    name: str
    ask: str
    role: str | None = None
    """Role that has to answer; `None`: whoever operates."""
    plan: str | None = None
    """Hash of the plan, where one is approved."""


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


# ---- plans -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Estimate:
    """How long something is expected to take, and how that is known.

    Attributes:
        ms: Milliseconds.
        basis: `observed`: it was done for the plan; `measured`: in earlier runs; `computed`: from bytes; `expected`: by
            the procedure; `budget`: nobody knows, and its soft limit stands in.
        runs: Number of runs that were measured.
        bytes: Bytes that were computed with.
    """

    ms: int
    basis: str
    runs: int | None = None
    bytes: int | None = None


@dataclass(frozen=True, slots=True)
class PlanItem:
    """A line of a plan; `type` says which of the other fields have a meaning.

    Attributes:
        type: `step`, `decision`, `approval`, `check` or `wait`.
        step: Path of a step.
        name: Path of a decision, an approval or a wait.
        item: Path of an item of a checklist.
        effect: `observe`, `idempotent`, `once` or `destructive`.
        undo: How a step would be undone.
        estimate: Expected duration of a step or a wait.
        budget_ms: Soft limit of a step.
        timeout_ms: Longest wait.
        needs_approval: Whether somebody has to approve the step.
        ends_outage: Whether the outage is over after the step.
        value: What was decided.
        ask: What will be asked.
        text: Text of an item of a checklist.
        verdict: What a probe says of it now.
        evidence: What was seen.
        probe: What is waited for.
    """

    type: str
    step: str | None = None
    name: str | None = None
    item: str | None = None
    effect: str | None = None
    undo: Any = None
    estimate: Estimate | None = None
    budget_ms: int | None = None
    timeout_ms: int | None = None
    needs_approval: bool = False
    ends_outage: bool = False
    value: Any = None
    ask: str | None = None
    text: str | None = None
    verdict: str | None = None
    evidence: str | None = None
    probe: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What a procedure would do now.

    Attributes:
        items: What would happen, in order.
        boundary: Step at which planning stopped, because what follows depends on its result.
        estimate_ms: Sum of all estimates; people's answers take their own time.
        outage_ms: The same up to the end of the outage.
        fits_rto: Whether that fits the recovery time objective.
        hash: Hash over what would be done.
    """

    system: str
    procedure: str
    request: Any
    items: tuple[PlanItem, ...]
    boundary: str | None
    estimate_ms: int
    outage_ms: int | None
    hash: str
    fits_rto: bool | None = None


# ---- runs ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StepSummary:
    """A step of a run. Times are in milliseconds."""

    step: str
    effect: str
    status: str
    attempts: int
    offset_ms: int
    ms: int | None
    budget_ms: int | None
    approved_by: str | None = None
    error: ErrorRecord | None = None

    @property
    def is_over_budget(self) -> bool:
        """Whether it took longer than its budget."""
        return self.ms is not None and self.budget_ms is not None and self.ms > self.budget_ms


@dataclass(frozen=True, slots=True)
class CheckSummary:
    """An item of a checklist."""

    item: str
    text: str
    verdict: str
    evidence: str


@dataclass(frozen=True, slots=True)
class RunSummary:
    """A run, as its journal tells."""

    run: str
    system: str
    procedure: str
    request: Any
    plan: str
    operator: str
    host: str
    version: str
    began: datetime
    last: datetime
    elapsed_ms: int
    resumes: int
    status: RunStatus
    error: ErrorRecord | None
    steps: tuple[StepSummary, ...]
    checks: tuple[CheckSummary, ...]
    records: int


@dataclass(frozen=True, slots=True)
class Runs:
    """The runs of a system, oldest first, and those whose journals cannot be read, with the reason."""

    runs: tuple[RunSummary, ...]
    unreadable: tuple[tuple[str, ErrorRecord], ...]

    def find(self, run: str) -> RunSummary | None:
        """Finds a run by its id."""
        return next((r for r in self.runs if r.run == run), None)
