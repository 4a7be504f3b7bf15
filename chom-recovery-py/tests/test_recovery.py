"""The main job from Python on the reference stack: back up, break, recover, look."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from chom_recovery import NeedsConfirmation, Recovery, Status
from chom_recovery.exceptions import AlreadyExistsError, InvalidInputError, LockedError, NotFoundError
from chom_recovery.models import BackupInfo, DatabaseReport, Finding, Recovered, RunStatus

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Stack

FINGERPRINT = "SELECT COUNT(*), SUM(CRC32(CONCAT_WS('|', id, user_id, reference, total, placed_at))) FROM orders"


async def test_a_dropped_table_comes_back_through_approval_cancelling_and_resuming(
    stack: Stack, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    made = await (await Recovery.open(stack.config(tmp_path))).init_repository(encryption="none")
    recovery = await Recovery.open(stack.config(tmp_path, signers=(made.signer,)))
    assert recovery.project == stack.project
    with pytest.raises(AlreadyExistsError):
        await recovery.init_repository(encryption="none")

    before = stack.sql(FINGERPRINT)
    assert int(before.split()[0]) > 0
    backup = await recovery.backups.create(tags=["from-python"])
    assert backup.level == "L2", "a backup that nobody verified is none"
    assert [b.id for b in (await recovery.backups.list()).backups] == [backup.id]

    stack.sql("SET FOREIGN_KEY_CHECKS = 0; DROP TABLE orders")

    plan = await recovery.plan_database("tag:from-python")
    assert plan.fits_rto is not None
    assert {i.estimate.basis for i in plan.items if i.estimate} == {"observed", "computed", "expected", "budget"}
    assert any(i.needs_approval and (i.step or "").endswith("swap-volumes") for i in plan.items)

    with pytest.raises(InvalidInputError, match="the project is"):
        await recovery.recover_database(confirm="another")
    assert [r.procedure for r in (await recovery.runs()).runs] == ["back-up"], "a wrong name starts nothing"

    with pytest.raises(NeedsConfirmation) as needed:
        await recovery.recover_database("tag:from-python")
    run = needed.value.run_id
    assert run is not None
    with pytest.raises(LockedError):
        await recovery.recover_database(confirm=stack.project)
    assert "incident" in await recovery.approve(run, by="the tests")

    # Stopped while the candidate is being loaded, long before production is touched.
    loading = asyncio.Event()

    def wait_for_load(event: dict[str, Any]) -> None:
        if event["type"] == "step_started" and event["step"].endswith("restore-beside"):
            loading.set()

    going = asyncio.create_task(recovery.resume(run, confirm=stack.project, on_event=wait_for_load))
    async with asyncio.timeout(300):
        waiting = asyncio.create_task(loading.wait())
        await asyncio.wait({going, waiting}, return_when=asyncio.FIRST_COMPLETED)
        assert loading.is_set(), await going
        going.cancel()
        with pytest.raises(asyncio.CancelledError):
            await going
    stopped = (await recovery.runs()).find(run)
    assert stopped is not None
    assert stopped.status is RunStatus.PAUSED

    told: list[dict[str, Any]] = []
    report = await recovery.resume(run, confirm=stack.project, on_event=told.append)
    events = [event["type"] for event in told]

    assert isinstance(report, DatabaseReport)
    assert stack.sql(FINGERPRINT) == before
    assert report.assessment.finding is Finding.DATA_MISSING
    assert report.assessment.missing_tables == ("chom.orders",)
    assert report.restored is not None
    assert isinstance(report.restored.backup, BackupInfo)
    assert report.restored.backup.id == backup.id
    assert report.restored.verified.tables > 0
    assert report.restored.kept.bytes > 0
    assert report.rpo is not None
    assert report.rto.achieved_s > 0
    assert report.service_at >= report.database_at
    assert events[-1] == "run_ended"
    assert "step_replayed" in events, "what was done before is not done again"

    listing = await recovery.backups.list()
    assert [b.id for b in listing.backups] == [backup.id, report.new_backup]
    ended = (await recovery.runs()).find(run)
    assert ended is not None
    assert (ended.status, ended.resumes) == (RunStatus.SUCCEEDED, 2)
    health = await recovery.health("monitoring")
    assert health.overall in {Status.HEALTHY, Status.DEGRADED}, health

    # Nothing that Python gets to see or print holds a secret.
    shown = [recovery, report, listing, ended, health, needed.value, needed.value.__dict__, told, caplog.text]
    text = " ".join(map(repr, shown)) + str(needed.value) + "".join(capfd.readouterr())
    assert not [secret for secret in stack.secrets() if secret in text]


HOST = """
import asyncio, json, resource, sys
from chom_recovery import Recovery

def starve(event):
    if event["type"] == "step_started" and event["step"].endswith("dump"):
        resource.setrlimit(resource.RLIMIT_AS, (1 << 20, resource.getrlimit(resource.RLIMIT_AS)[1]))

async def main():
    recovery = await Recovery.open(json.loads(sys.argv[1]))
    await recovery.backups.create(on_event=starve)

asyncio.run(main())
"""


async def test_a_host_that_runs_out_of_memory_leaves_a_run_that_goes_on(stack: Stack, tmp_path: Path) -> None:
    made = await (await Recovery.open(stack.config(tmp_path))).init_repository(encryption="none")
    config = stack.config(tmp_path, signers=(made.signer,))
    arguments = [sys.executable, "-c", HOST, json.dumps(config, default=str)]
    pipe = asyncio.subprocess.PIPE
    host = await asyncio.create_subprocess_exec(*arguments, stdout=pipe, stderr=asyncio.subprocess.STDOUT)
    assert host.stdout is not None
    said = asyncio.create_task(host.stdout.read())
    try:
        async with asyncio.timeout(20):
            await host.wait()
    except TimeoutError:
        # An interpreter without memory may not even come to its end: then somebody kills it.
        host.kill()
    assert await host.wait() != 0
    died = (await said).decode()
    assert not [secret for secret in stack.secrets() if secret in died]

    recovery = await Recovery.open(config)
    [left] = (await recovery.runs()).runs
    assert left.status in {RunStatus.INTERRUPTED, RunStatus.FAILED}, died
    assert (await recovery.backups.list()).backups == ()
    backup = await recovery.resume(left.run)
    assert isinstance(backup, BackupInfo)
    assert backup.level == "L2"
    [ended] = (await recovery.runs()).runs
    assert ended.status is RunStatus.SUCCEEDED


async def test_a_single_table_comes_back_and_its_restore_is_undone(stack: Stack, tmp_path: Path) -> None:
    made = await (await Recovery.open(stack.config(tmp_path))).init_repository(encryption="none")
    recovery = await Recovery.open(stack.config(tmp_path, signers=(made.signer,)))
    checked = await recovery.check_tables(timedelta(minutes=5))
    assert checked.is_good, checked
    assert checked.good > 0
    with pytest.raises(InvalidInputError):
        await recovery.check_tables(timedelta(seconds=-1))

    def rows(table: str = "of_python") -> str:
        return stack.sql(f"SELECT COUNT(*), SUM(CRC32(CONCAT_WS('|', id, note))) FROM {table}")  # noqa: S608

    stack.sql("CREATE TABLE of_python (id INT PRIMARY KEY, note TEXT)")
    stack.sql("INSERT INTO of_python SELECT id, reference FROM orders ORDER BY id LIMIT 100")
    whole = rows()
    backup = await recovery.backups.create(components=["database"])
    physical = await recovery.backups.create(components=["database"], kind="physical")
    assert physical.committed > backup.committed
    stack.sql("DELETE FROM of_python WHERE id % 2 = 0")
    left = rows()
    assert left != whole

    for wrong in ("orders", ".orders", "a.b.c"):
        with pytest.raises(InvalidInputError, match=r"schema\.table"):
            await recovery.restore_tables([wrong], confirm=stack.project)
    with pytest.raises(TypeError, match="put it into a list"):
        await recovery.restore_tables("chom.of_python", confirm=stack.project)
    with pytest.raises(NotFoundError):
        await recovery.restore_tables(["chom.nothing"], backup, confirm=stack.project)
    await recovery.rollback((await recovery.runs()).runs[-1].run, because="there is no such table")

    # The newest that holds rows, though data files are newer.
    report = await recovery.restore_tables(["chom.of_python"], confirm=stack.project, allow_local_infile=True)
    assert report.done
    assert rows() == whole
    await recovery.rollback((await recovery.runs()).runs[-1].run, because="it was a test")
    assert rows() == left
    beside = await recovery.restore_tables(
        ["chom.of_python"], backup, rename="chom.beside", confirm=stack.project, allow_local_infile=True
    )
    assert beside.done
    assert (rows("beside"), rows()) == (whole, left)
    stack.sql("DROP TABLE of_python, beside")


async def test_files_come_back_from_a_copy_where_the_repository_is_damaged(stack: Stack, tmp_path: Path) -> None:
    component = {"name": "storage", "service": "app", "path": "/srv/app/storage", "exclude": ["/logs/", "/framework/"]}
    copy = {"url": f"file:{tmp_path / 'copy'}"}
    made = await (await Recovery.open(stack.config(tmp_path))).init_repository(encryption="none")
    config = stack.config(tmp_path, signers=(made.signer,))
    config["components"] = [component]
    config["repository"]["copy"] = copy
    recovery = await Recovery.open(config)
    with pytest.raises(NotFoundError):
        await recovery.backups.copy()
    assert await recovery.backups.init_copy() == await recovery.backups.init_copy()

    upload = "/srv/app/storage/app/of-python"
    stack.shell("app", f"echo kept >{upload}")
    backup = await recovery.backups.create(components=["storage"])
    copied = await recovery.backups.copy()
    assert [(one.backup, one.verification.findings_total) for one in copied.copied] == [(backup.id, 0)]
    assert (await recovery.backups.copy()).present == 1

    stack.shell("app", f"echo lost >{upload}")
    with pytest.raises(NotFoundError):
        await recovery.restore_files("nothing", confirm=stack.project)
    report = await recovery.restore_files("storage", backup, confirm=stack.project)
    assert (report.component, "app" in report.restarted) == ("storage", True)
    assert stack.shell("app", f"cat {upload}").strip() == "kept"
    undone = await recovery.rollback((await recovery.runs()).runs[-1].run, because="it was a test")
    assert any(step.endswith("swap-folders") for step in undone)
    assert stack.shell("app", f"cat {upload}").strip() == "lost"
    stack.shell("app", f"rm {upload}")


async def test_a_stopped_scheduler_is_recovered_and_its_recovery_undone(stack: Stack, tmp_path: Path) -> None:
    made = await (await Recovery.open(stack.config(tmp_path))).init_repository(encryption="none")
    recovery = await Recovery.open(stack.config(tmp_path, signers=(made.signer,)))
    stack.compose("stop", "scheduler")
    with pytest.raises(InvalidInputError):
        await recovery.recover("scheduler", confirm=stack.project, nothing="of that name")
    assert (await recovery.plan("scheduler")).items
    report = await recovery.recover("scheduler", confirm=stack.project)
    assert (bool(report.found), bool(report.done), report.rto.is_met) == (True, True, True)
    undone = await recovery.rollback((await recovery.runs()).runs[-1].run, because="it was a test")
    assert undone
    assert "scheduler" not in stack.compose("ps", "--services", "--status", "running").split()
    with pytest.raises(InvalidInputError):
        await recovery.recover_diagnosed(choose="nginx", confirm=stack.project)
    selected = await recovery.recover_diagnosed(confirm=stack.project)
    assert isinstance(selected, Recovered)
    assert (await recovery.runs()).runs[-1].procedure == "recover-scheduler"
    stack.compose("up", "--detach", "--wait", "scheduler")
