"""Errors: catch a class, or match on `ChomRecoveryError.code`; read the rest.

Classes inherit a built-in exception where one fits, so that code that knows nothing of this package handles them
sensibly: `except TimeoutError`, `except FileNotFoundError`, `except ConnectionError`.
"""

from __future__ import annotations

import json
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = [
    "AlreadyExistsError",
    "AuthenticationError",
    "CancelledRunError",
    "ChomRecoveryError",
    "ConflictError",
    "CorruptError",
    "DeadlineExceededError",
    "DeniedError",
    "IncompleteError",
    "InvalidInputError",
    "LockedError",
    "NeedsConfirmation",
    "NoSpaceError",
    "NotFoundError",
    "OutcomeUnknownError",
    "PreconditionError",
    "RetainedError",
    "UnhealthyError",
    "UnreachableError",
    "UnsupportedError",
]


class ChomRecoveryError(Exception):
    """Base of all errors of this package; itself raised for `failed` and for codes of newer versions.

    Attributes:
        message: What is wrong: the object and the rule broken. Secrets are redacted.
        code: Stable code, as in the JSON output of the command line, for example `not_found`.
        hint: Next safe action, where one is known.
        context: Facts, by name.
        causes: Texts of the causes, outermost first.
        run_id: Run that it stopped, for `Recovery.resume` and `Recovery.rollback`.
    """

    message: str
    code: str
    hint: str | None
    context: Mapping[str, str]
    causes: tuple[str, ...]
    run_id: str | None

    def __init__(
        self,
        message: str,
        *,
        code: str = "failed",
        hint: str | None = None,
        context: Mapping[str, str] | None = None,
        causes: Iterable[str] = (),
        run_id: str | None = None,
    ) -> None:
        """Makes an error."""
        super().__init__(message)
        self.message = message
        self.code = code
        self.hint = hint
        self.context = MappingProxyType(dict(context or {}))
        self.causes = tuple(causes)
        self.run_id = run_id
        # Notes are what a traceback shows below the message.
        for cause in self.causes:
            self.add_note(f"caused by: {cause}")
        if hint is not None:
            self.add_note(f"hint: {hint}")

    def __str__(self) -> str:
        facts = ", ".join(f"{name}: {value}" for name, value in self.context.items())
        return f"{self.message} ({facts})" if facts else self.message

    def __repr__(self) -> str:
        fields = [repr(self.message), f"code={self.code!r}"]
        if self.hint is not None:
            fields.append(f"hint={self.hint!r}")
        if self.context:
            fields.append(f"context={dict(self.context)!r}")
        if self.run_id is not None:
            fields.append(f"run_id={self.run_id!r}")
        return f"{type(self).__name__}({', '.join(fields)})"

    def __reduce__(self) -> tuple[Any, ...]:
        fields = {
            "code": self.code,
            "hint": self.hint,
            "context": dict(self.context),
            "causes": self.causes,
            "run_id": self.run_id,
        }
        return _rebuild, (type(self), self.message, fields)


class InvalidInputError(ChomRecoveryError, ValueError):
    """An argument, a file or a request is not of the right form."""


class IncompleteError(ChomRecoveryError):
    """Only a part of the work succeeded; what is missing is named."""


class UnhealthyError(ChomRecoveryError):
    """A check ran and its answer is bad."""


class NeedsConfirmation(ChomRecoveryError):  # noqa: N818 - the run is fine; it waits
    """The run waits for a person: `Recovery.approve`, then `Recovery.resume`, both with its `run_id`."""


class PreconditionError(ChomRecoveryError):
    """Something the work relies on is missing: disk space, a version, a secret."""


class NoSpaceError(ChomRecoveryError, OSError):
    """No space, inodes or quota left."""


class CorruptError(ChomRecoveryError):
    """Bytes differ from what was promised: hash, length, signature, trailer."""


class NotFoundError(ChomRecoveryError, FileNotFoundError, LookupError):
    """The named thing does not exist."""


class AlreadyExistsError(ChomRecoveryError, FileExistsError):
    """The named thing exists already and must not be overwritten."""


class LockedError(ChomRecoveryError):
    """Another run, host or process holds it."""


class ConflictError(ChomRecoveryError):
    """The world or an input changed since it was recorded."""


class AuthenticationError(ChomRecoveryError, PermissionError):
    """Credentials were refused."""


class UnreachableError(ChomRecoveryError, ConnectionError):
    """A daemon, host or store did not answer."""


class DeadlineExceededError(ChomRecoveryError, TimeoutError):
    """A deadline passed."""


class OutcomeUnknownError(ChomRecoveryError):
    """An effect may or may not have happened; a person has to look."""


class CancelledRunError(ChomRecoveryError):
    """Somebody asked the run to stop, and it did at a safe point; it can be resumed."""


class DeniedError(ChomRecoveryError, PermissionError):
    """A person or a policy said no."""


class RetainedError(ChomRecoveryError, PermissionError):
    """It is kept on purpose until a time, by an object lock or a hold; nothing is wrong."""


class UnsupportedError(ChomRecoveryError, NotImplementedError):
    """This build, server or engine cannot do it."""


_CLASSES: Final[dict[str, type[ChomRecoveryError]]] = {
    "invalid_input": InvalidInputError,
    "incomplete": IncompleteError,
    "unhealthy": UnhealthyError,
    "needs_confirmation": NeedsConfirmation,
    "precondition": PreconditionError,
    "no_space": NoSpaceError,
    "corrupt": CorruptError,
    "not_found": NotFoundError,
    "already_exists": AlreadyExistsError,
    "locked": LockedError,
    "conflict": ConflictError,
    "authentication": AuthenticationError,
    "unreachable": UnreachableError,
    "timeout": DeadlineExceededError,
    "outcome_unknown": OutcomeUnknownError,
    "cancelled": CancelledRunError,
    "denied": DeniedError,
    "retained": RetainedError,
    "unsupported": UnsupportedError,
}


def from_json(text: str) -> ChomRecoveryError:
    """Makes the exception of an error record; the extension module calls it."""
    record = json.loads(text)
    code = record["kind"]
    return _CLASSES.get(code, ChomRecoveryError)(
        record["message"],
        code=code,
        hint=record.get("hint"),
        context=dict(record.get("context", ())),
        causes=record.get("causes", ()),
    )


def _rebuild(cls: type[ChomRecoveryError], message: str, fields: dict[str, Any]) -> ChomRecoveryError:
    return cls(message, **fields)
