"""Recovers a Docker Compose web application: backups, health, and recoveries that resume and can be undone.

The API is asyncio's. Failures are subclasses of `ChomRecoveryError`; answers are frozen dataclasses of
`chom_recovery.models`.

Example:
    ```python
    import asyncio
    from chom_recovery import NeedsConfirmation, Recovery

    async def main() -> None:
        recovery = await Recovery.open("/etc/chom-recovery.toml")
        await recovery.backups.create(tags=["before-upgrade"])
        if not (await recovery.health()).is_healthy:
            report = await recovery.recover_database(confirm="chom", on_event=print)
            print(report.rto.achieved_s, report.rpo)

    asyncio.run(main())
    ```

Cancelling:
    A run lives in a task of its own, which no await owns. Cancelling the await of a run (Ctrl-C under `asyncio.run`,
    `asyncio.timeout`, `Task.cancel`) asks the run to stop, and the await ends when the run stands at a safe point: a
    half-done step is finished or undone first, never dropped. `Recovery.resume` goes on from there,
    `Recovery.rollback` goes back. Cancelling a second time stops waiting only. When the interpreter ends, runs get
    30 seconds to reach a safe point; what a killed process leaves behind is resumed as well.

Processes:
    After a `fork` the library refuses to work in the child; use the `spawn` or `forkserver` method.
"""

from __future__ import annotations

import atexit

from . import exceptions, models
from ._native import __version__, shut_down
from ._recovery import Approver, Backups, Event, EventCallback, Recovery
from .exceptions import ChomRecoveryError, NeedsConfirmation
from .models import BackupInfo, DatabaseReport, HealthMode, HealthReport, Question, Status

__all__ = [
    "Approver",
    "BackupInfo",
    "Backups",
    "ChomRecoveryError",
    "DatabaseReport",
    "Event",
    "EventCallback",
    "HealthMode",
    "HealthReport",
    "NeedsConfirmation",
    "Question",
    "Recovery",
    "Status",
    "__version__",
    "exceptions",
    "models",
]

# Seconds that runs get to reach a safe point when the interpreter ends.
atexit.register(shut_down, 30.0)
