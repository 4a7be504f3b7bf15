"""Health, and what is made of it."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from .common import _nothing


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
