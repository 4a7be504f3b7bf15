"""Checks of the running database's tables."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TableProblem:
    """A table that the server found fault with."""

    table: str
    message: str


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What `CHECK TABLE` found.

    Attributes:
        good: Tables found good.
        unchecked: Tables for which no time was left, or which cannot be checked.
        seconds: How long it took.
    """

    good: int
    corrupt: tuple[TableProblem, ...]
    unchecked: tuple[str, ...]
    seconds: float

    @property
    def is_good(self) -> bool:
        """Whether every table was checked, and is good."""
        return not self.corrupt and not self.unchecked
