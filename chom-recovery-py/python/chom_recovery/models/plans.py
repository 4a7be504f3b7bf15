"""What would be done, and who is asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


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
