"""Following a run: its events, its questions, and what cancelling means."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from ._decode import decode
from .exceptions import ChomRecoveryError
from .models import Question

if TYPE_CHECKING:
    from ._native import Ongoing

Event: TypeAlias = dict[str, Any]
"""Something that happened in a run, by `type`: `step_started`, `progress`, `step_done`, `run_ended` and others.

For display; `Recovery.runs` tells what really is. Unknown types and keys have to be ignored.
"""

EventCallback: TypeAlias = Callable[[Event], object]
"""Called on the event loop for each event, in order. What it raises is logged and harms no run."""

Approver: TypeAlias = Callable[[Question], bool | None]
"""Answers a question: `True` yes, `False` no, `None` nobody can tell now, which pauses the run.

Called on a thread of its own, so it may block, for example in `input`.
"""

_LOG: Final = logging.getLogger("chom_recovery")

# The last events arrive before the run's end is known; this bounds the wait for them.
_LAST_EVENTS_SECONDS: Final = 5.0


class Asker:
    """Puts questions to an `Approver`, in the form in which the extension asks."""

    def __init__(self, approve: Approver, by: str) -> None:
        """Asks `approve`, and records its answers in the name of `by`."""
        if inspect.iscoroutinefunction(approve):
            raise TypeError("`approve` is called on a thread of its own and has to be a plain function")
        self._approve = approve
        self._by = by
        self.failure: BaseException | None = None

    def __call__(self, text: str) -> str:
        """Answers one question; a callable that raises has not said yes."""
        try:
            answer = self._approve(decode(Question, json.loads(text)))
            if answer is not None and not isinstance(answer, bool):
                raise TypeError(f"`approve` returned {type(answer).__name__}, not True, False or None")
        except BaseException as e:
            self.failure = e
            answer = None
        if answer is None:
            return json.dumps({"answer": "later"})
        if answer:
            return json.dumps({"answer": "yes", "by": self._by})
        return json.dumps({"answer": "no", "by": self._by, "because": "`approve` returned False"})


async def follow(ongoing: Ongoing, on_event: EventCallback | None = None, asker: Asker | None = None) -> Any:
    """Waits for the end of a run, and returns its report as parsed JSON."""
    telling = asyncio.create_task(_tell(ongoing, on_event)) if on_event is not None else None
    try:
        result = await ongoing.finish()
        if telling is not None:
            await asyncio.wait({telling}, timeout=_LAST_EVENTS_SECONDS)
        return json.loads(result)
    except asyncio.CancelledError as cancelled:
        await _stop(ongoing, cancelled)
        raise
    except ChomRecoveryError as error:
        error.run_id = ongoing.id
        if telling is not None:
            await asyncio.wait({telling}, timeout=_LAST_EVENTS_SECONDS)
        if asker is not None and asker.failure is not None:
            raise error from asker.failure
        raise
    finally:
        if telling is not None:
            telling.cancel()


async def _stop(ongoing: Ongoing, cancelled: asyncio.CancelledError) -> None:
    ongoing.cancel()
    _LOG.warning("run %s was asked to stop; waiting for its next safe point", ongoing.id)
    try:
        await ongoing.finish()
    except ChomRecoveryError as error:
        cancelled.add_note(f"run {ongoing.id} stopped: {error}; `resume` goes on, `rollback` goes back")
    else:
        cancelled.add_note(f"run {ongoing.id} succeeded before it could be stopped")


async def _tell(ongoing: Ongoing, on_event: EventCallback) -> None:
    while (text := await ongoing.next_event()) is not None:
        try:
            on_event(json.loads(text))
        except Exception:
            _LOG.exception("`on_event` raised; the run goes on")
