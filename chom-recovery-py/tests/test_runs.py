"""What cancelling, asking and telling mean, on a run whose pace the tests set."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING, Any, cast

import pytest

from chom_recovery import _runs
from chom_recovery.exceptions import CancelledRunError, ChomRecoveryError, NeedsConfirmation

if TYPE_CHECKING:
    from chom_recovery import Question
    from chom_recovery._native import Ongoing

QUESTION = json.dumps({"run": "R", "name": "swap", "ask": "replace?", "role": None, "plan": None})


class Script:
    """Stands in for the extension's `Ongoing`: ends when told, or some time after it is asked to stop."""

    id = "R"

    def __init__(self, *events: dict[str, Any]) -> None:
        self.end: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.asked_to_stop = asyncio.Event()
        self._events = list(events)

    def cancel(self) -> None:
        self.asked_to_stop.set()

    async def finish(self) -> str:
        return await asyncio.shield(self.end)

    async def next_event(self) -> str | None:
        return json.dumps(self._events.pop(0)) if self._events else None

    @property
    def ongoing(self) -> Ongoing:
        return cast("Ongoing", self)


async def test_a_cancelled_await_ends_only_at_the_safe_point() -> None:
    script = Script()
    task = asyncio.create_task(_runs.follow(script.ongoing))
    await asyncio.sleep(0)
    task.cancel()
    await script.asked_to_stop.wait()
    done, _ = await asyncio.wait({task}, timeout=0.05)
    assert not done, "it ended while the run was still between two safe points"
    script.end.set_exception(CancelledRunError("stopped", code="cancelled"))
    with pytest.raises(asyncio.CancelledError) as cancelled:
        await task
    assert "`resume` goes on" in cancelled.value.__notes__[0]


async def test_cancelling_again_stops_waiting() -> None:
    script = Script()
    task = asyncio.create_task(_runs.follow(script.ongoing))
    await asyncio.sleep(0)
    task.cancel()
    await script.asked_to_stop.wait()
    task.cancel()
    async with asyncio.timeout(5):
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_timeout_stops_the_run_and_is_a_timeout() -> None:
    script = Script()

    async def stop() -> None:
        await script.asked_to_stop.wait()
        script.end.set_result("{}")

    stopping = asyncio.create_task(stop())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await _runs.follow(script.ongoing)
    await stopping


async def test_every_event_arrives_before_the_report_and_a_bad_callback_harms_no_run(
    caplog: pytest.LogCaptureFixture,
) -> None:
    script = Script({"type": "step_started"}, {"type": "run_ended"})
    script.end.set_result('{"rows": 5}')
    seen = []

    def on_event(event: dict[str, Any]) -> None:
        seen.append(event["type"])
        raise RuntimeError("a bug of the caller")

    with caplog.at_level(logging.ERROR, "chom_recovery"):
        assert await _runs.follow(script.ongoing, on_event) == {"rows": 5}
    assert seen == ["step_started", "run_ended"]
    assert "the run goes on" in caplog.text


async def test_a_failure_carries_the_run_to_resume() -> None:
    script = Script()
    script.end.set_exception(NeedsConfirmation("it waits", code="needs_confirmation"))
    with pytest.raises(NeedsConfirmation) as needed:
        await _runs.follow(script.ongoing)
    assert needed.value.run_id == "R"


@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        (True, {"answer": "yes", "by": "ann"}),
        (False, {"answer": "no", "by": "ann", "because": "`approve` returned False"}),
        (None, {"answer": "later"}),
    ],
)
def test_answers_are_recorded_in_the_operators_name(answer: bool | None, reply: dict[str, str]) -> None:
    asked: list[Question] = []

    def approve(question: Question) -> bool | None:
        asked.append(question)
        return answer

    assert json.loads(_runs.Asker(approve, "ann")(QUESTION)) == reply
    assert asked[0].ask == "replace?"


@pytest.mark.parametrize("answer", ["yes", 1])
def test_only_true_is_a_yes(answer: Any) -> None:
    asker = _runs.Asker(lambda _: cast("bool", answer), "ann")
    assert json.loads(asker(QUESTION)) == {"answer": "later"}
    assert isinstance(asker.failure, TypeError)


async def test_what_the_approver_raises_pauses_the_run_and_is_the_cause() -> None:
    def approve(_: Question) -> bool:
        raise OSError("the pager is down")

    asker = _runs.Asker(approve, "ann")
    assert json.loads(asker(QUESTION)) == {"answer": "later"}
    script = Script()
    script.end.set_exception(NeedsConfirmation("it waits", code="needs_confirmation"))
    with pytest.raises(ChomRecoveryError) as needed:
        await _runs.follow(script.ongoing, None, asker)
    assert str(needed.value.__cause__) == "the pager is down"


def test_a_coroutine_function_cannot_be_an_approver() -> None:
    async def approve(_: Question) -> bool:
        return True

    with pytest.raises(TypeError, match="plain function"):
        _runs.Asker(cast("_runs.Approver", approve), "ann")
