"""Runs, as their journals tell."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from .common import ErrorRecord


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
