"""What several of them hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


def _nothing() -> Mapping[str, str]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class ErrorRecord:
    """An error that is part of an answer."""

    kind: str
    message: str
    context: tuple[tuple[str, str], ...] = ()
    hint: str | None = None
    causes: tuple[str, ...] = ()
