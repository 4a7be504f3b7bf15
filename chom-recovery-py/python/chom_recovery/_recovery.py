"""The facade."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

from . import models
from ._arguments import Which, database_request, login, named_request, plain, run_options, selector, several, table_name
from ._backups import Backups
from ._decode import decode
from ._native import NativeRecovery
from ._runs import Approver, Asker, Event, EventCallback, follow
from .exceptions import InvalidInputError, UnsupportedError

if TYPE_CHECKING:
    from datetime import datetime, timedelta

__all__ = ["Approver", "Backups", "Event", "EventCallback", "Recovery"]

Part: TypeAlias = Literal["application", "nginx", "performance", "queue", "redis", "scheduler"]


class Recovery:
    """One protected system, with everything that can be done to it. Made by `Recovery.open`.

    Attributes:
        backups: The backups of the system.
    """

    __slots__ = ("_native", "backups")

    backups: Backups

    def __init__(self, native: NativeRecovery) -> None:
        """Wraps the extension's object; use `Recovery.open`."""
        self._native = native
        self.backups = Backups(native)

    @classmethod
    async def open(cls, config: str | os.PathLike[str] | Mapping[str, Any]) -> Self:
        """Connects to the Engine of a system.

        The repository is opened when it is needed.

        Args:
            config: Path of a `chom-recovery.toml`, or its content as nested mappings; paths and `timedelta`s are
                welcome there.

        Raises:
            NotFoundError: There is no such file. Also a `FileNotFoundError`.
            InvalidInputError: The configuration is wrong; the key is named. Also a `ValueError`.
            UnreachableError: No Engine answers. Also a `ConnectionError`.
        """
        if isinstance(config, Mapping):
            return cls(await NativeRecovery.open_json(json.dumps(config, default=plain)))
        return cls(await NativeRecovery.open_file(os.fspath(config)))

    def __repr__(self) -> str:
        return f"Recovery(system={self.system!r}, project={self.project!r}, engine={self.engine!r})"

    @property
    def system(self) -> str:
        """Id of the system."""
        return self._native.system

    @property
    def project(self) -> str:
        """Compose project."""
        return self._native.project

    @property
    def engine(self) -> str:
        """Address of the Engine."""
        return self._native.engine

    async def init_repository(
        self,
        *,
        encryption: Literal["age", "none"],
        recipients: Iterable[str] = (),
        escrow_identity: str | os.PathLike[str] | None = None,
    ) -> models.Initialized:
        """Makes the repository and, where there is none yet, this host's signing key.

        Args:
            encryption: How parts are protected; there is no default. `none`: whoever can read the store can read
                the data. `age`: the recipients alone can.
            recipients: At least two age recipients (`age1...`), for `age`.
            escrow_identity: Identity file of the recipient that is kept offline. It is proven to open what is
                written, and not kept.

        Raises:
            AlreadyExistsError: There is a repository; nothing was changed.
            AuthenticationError: The escrow identity is none of the recipients'; nothing was made.
        """
        escrow = None if escrow_identity is None else os.fspath(escrow_identity)
        made = await self._native.init_repository(json.dumps(encryption), list(recipients), escrow)
        return decode(models.Initialized, json.loads(made))

    async def health(self, mode: models.HealthMode | str = models.HealthMode.FULL) -> models.HealthReport:
        """Asks every probe of a mode, at once, under the configured deadline.

        What is broken is in the answers; it does not raise.
        """
        return decode(models.HealthReport, json.loads(await self._native.health(json.dumps(str(mode)))))

    async def diagnose(self) -> models.Triage:
        """Says what is wrong and which procedure mends it, most probable first."""
        health, diagnoses = json.loads(await self._native.diagnose())
        return decode(models.Triage, {"health": health, "diagnoses": diagnoses})

    async def plan_database(
        self,
        backup: Which = "latest",
        *,
        kind: Literal["auto", "logical", "physical"] = "auto",
        extent: Literal["recover", "restore"] = "recover",
        incident_began: datetime | None = None,
    ) -> models.Plan:
        """Finds out what `recover_database` would do now, without doing it. Arguments are those of it.

        Raises:
            PreconditionError: A restore is not the cure.
            NotFoundError: There is no repository, or no such backup.
        """
        request = database_request(backup, kind, extent, incident_began)
        plan, fits_rto = json.loads(await self._native.plan_database(json.dumps(request)))
        return decode(models.Plan, {**plan, "fits_rto": fits_rto})

    async def recover_database(
        self,
        backup: Which = "latest",
        *,
        kind: Literal["auto", "logical", "physical"] = "auto",
        extent: Literal["recover", "restore"] = "recover",
        incident_began: datetime | None = None,
        confirm: str | None = None,
        approve: Approver | None = None,
        waive: Mapping[str, str] | None = None,
        operator: str | None = None,
        on_event: EventCallback | None = None,
    ) -> models.DatabaseReport:
        """Recovers the database: restores a backup beside it, verifies that, and swaps it in.

        Nobody is asked by default: the run then pauses before each thing that a person has to vouch for or approve,
        raises `NeedsConfirmation`, and goes on after `approve` and `resume`. Cancelling the await stops the run at a
        safe point, see the package.

        Args:
            backup: `"latest"`, `"previous"`, an id or the begin of one, `"tag:NAME"` for the newest with a tag,
                `"legacy:PATH"` for a dump of another program, an
                aware `datetime` for the newest whose data is not later, or an item of `backups.list()`.
            kind: Which kind of backup is chosen where `backup` names no single one: `"auto"` takes the newest, unless
                it does not go here or may carry what failed, and says why in the plan and in the report.
            extent: `"recover"` is the whole runbook, with checklist, triage, maintenance mode and soak; `"restore"`
                only replaces the data, whatever state it is in.
            incident_began: Aware time from which the loss of data is counted back; the begin of the run by default.
            confirm: Name of the Compose project: says yes to every question beforehand.
            approve: Answers questions instead.
            waive: Items of the checklist to go on without, with the reason.
            operator: Name of the person, for the journal; the login's by default.
            on_event: Called with each event.

        Raises:
            NeedsConfirmation: The run waits for a person.
            PreconditionError: A restore is not the cure, or something is missing.
            CorruptError: The chosen backup cannot be trusted; the hint names the one before it.
            LockedError: Another run is going on or unfinished.
            InvalidInputError: `confirm` is not the project's name; nothing was started.
        """
        request = database_request(backup, kind, extent, incident_began)
        options, asker = self._options(confirm, approve, waive, operator)
        ongoing = self._native.recover_database(json.dumps(request), options, asker)
        return decode(models.DatabaseReport, await follow(ongoing, on_event, asker))

    async def salvage_database(
        self,
        *,
        up_to_level: int = 3,
        tags: Iterable[str] = (),
        operator: str | None = None,
        on_event: EventCallback | None = None,
    ) -> models.SalvageReport:
        """Reads what can be read of a database server that does not start any more, and keeps it as a backup.

        The server has to be stopped; production is not touched. What was read is chosen by its id alone.

        Args:
            up_to_level: Highest level of InnoDB's forced recovery that may be tried, on the copy; from 4 on rows may be
                wrong.
            tags: Tags to find the backup by.
            operator: Name of the person, for the journal; the login's by default.
            on_event: Called with each event.

        Raises:
            PreconditionError: The server answers, its files may be written, or no allowed level starts.
            NoSpaceError: There is no room for a copy. Also an `OSError`.
            LockedError: Another run is going on or unfinished.
        """
        request = json.dumps({"up_to_level": up_to_level, "tags": several("tags", tags)})
        ongoing = self._native.salvage_database(request, run_options(operator or login(), None, is_confirmed=False))
        return decode(models.SalvageReport, await follow(ongoing, on_event))

    async def restore_files(
        self,
        component: str,
        backup: Which = "latest",
        *,
        keep_setid: bool = False,
        confirm: str | None = None,
        approve: Approver | None = None,
        operator: str | None = None,
        on_event: EventCallback | None = None,
    ) -> models.FilesReport:
        """Restores a component of files beside production, compares it, and puts it in place by a rename.

        What was there before is kept; `rollback` puts it back.

        Args:
            component: Its name in the configuration.
            backup: As for `recover_database`; `"latest"` is the newest that holds the component.
            keep_setid: Whether setuid and setgid of files are set again.
            confirm: Name of the Compose project: says yes to every question beforehand.
            approve: Answers questions instead.
            operator: Name of the person, for the journal; the login's by default.
            on_event: Called with each event.

        Raises:
            NotFoundError: No such component is configured, or no backup holds it.
            NeedsConfirmation: The run waits for a person.
            CorruptError: The backup is damaged; production was not touched.
        """
        request = {"backup": selector(backup), "component": component, "keep_setid": keep_setid}
        options, asker = self._options(confirm, approve, None, operator)
        ongoing = self._native.restore_files(json.dumps(request), options, asker)
        return decode(models.FilesReport, await follow(ongoing, on_event, asker))

    async def restore_tables(
        self,
        tables: Iterable[str] = (),
        backup: Which = "latest",
        *,
        schemas: Iterable[str] = (),
        rename: str | None = None,
        allow_local_infile: bool = False,
        confirm: str | None = None,
        approve: Approver | None = None,
        operator: str | None = None,
        on_event: EventCallback | None = None,
    ) -> models.Recovered:
        """Restores single tables on the running server: beside production's, compared there, exchanged by one rename.

        What production had is kept in a schema named after the run; `rollback` puts it back.

        Args:
            tables: Each as `"schema.table"`.
            backup: As for `recover_database`; `"latest"` is the newest that holds the database as rows.
            schemas: Schemas of which every table is meant.
            rename: Another name, as `"schema.table"`, for the one table that is asked for; then nothing is replaced.
            allow_local_infile: Whether `local_infile` may be switched on while rows are loaded, where it is off.
            confirm: Name of the Compose project: says yes to every question beforehand.
            approve: Answers questions instead.
            operator: Name of the person, for the journal; the login's by default.
            on_event: Called with each event.

        Raises:
            NotFoundError: The backup has no such table.
            PreconditionError: Something of production refers to the table, or `local_infile` is off.
            NeedsConfirmation: The run waits for a person.
            CorruptError: The backup is damaged; production was not touched.
        """
        request = {
            "backup": selector(backup),
            "tables": [table_name(name) for name in several("tables", tables)],
            "schemas": several("schemas", schemas),
            "rename": None if rename is None else table_name(rename),
            "allow_local_infile": allow_local_infile,
        }
        options, asker = self._options(confirm, approve, None, operator)
        ongoing = self._native.recover("restore-tables", json.dumps(request), options, asker)
        return decode(models.Recovered, await follow(ongoing, on_event, asker))

    async def check_tables(self, within: timedelta | None = None) -> models.CheckReport:
        """Runs `CHECK TABLE` over all tables of the running database, several at once. Changes nothing.

        Args:
            within: Longest time; `limits.check_table_cap` by default. What was not reached is named in the report.

        Raises:
            UnreachableError: The database does not answer. Also a `ConnectionError`.
        """
        seconds = None if within is None else within.total_seconds()
        return decode(models.CheckReport, json.loads(await self._native.check_tables(seconds)))

    async def plan(self, part: Part, **request: Any) -> models.Plan:
        """Finds out what `recover` would do now, without doing it. Arguments are those of it."""
        named = json.dumps(named_request(request))
        plan, fits_rto = json.loads(await self._native.plan_recovery(f"recover-{part}", named))
        return decode(models.Plan, {**plan, "fits_rto": fits_rto})

    async def recover(
        self,
        part: Part,
        *,
        confirm: str | None = None,
        approve: Approver | None = None,
        waive: Mapping[str, str] | None = None,
        operator: str | None = None,
        on_event: EventCallback | None = None,
        **request: Any,
    ) -> models.Recovered:
        """Recovers a part of the system: looks what is wrong, mends that alone, and proves it.

        Args:
            part: What to recover; the database has `recover_database`.
            confirm: Name of the Compose project: says yes to every question beforehand.
            approve: Answers questions instead.
            waive: Items of checklists to go on without, with the reason.
            operator: Name of the person, for the journal; the login's by default.
            on_event: Called with each event.
            **request: What the recovery is asked for beyond that, as the options of `chom-recovery recover`; `backup`
                is given as for `recover_database`. For `"application"`, `method` replaces what it names, broken or not:
                `"code"`, `"config"`, `"both"` or `"image"`, which puts services back on the images that the backup
                recorded.

        Raises:
            PreconditionError: It is not the cure; the hint names what is.
            NeedsConfirmation: The run waits for a person.
            LockedError: Another run is going on or unfinished.
        """
        options, asker = self._options(confirm, approve, waive, operator)
        ongoing = self._native.recover(f"recover-{part}", json.dumps(named_request(request)), options, asker)
        return decode(models.Recovered, await follow(ongoing, on_event, asker))

    async def recover_diagnosed(
        self,
        *,
        choose: Part | Literal["database"] | None = None,
        confirm: str | None = None,
        approve: Approver | None = None,
        waive: Mapping[str, str] | None = None,
        operator: str | None = None,
        on_event: EventCallback | None = None,
    ) -> models.DatabaseReport | models.Recovered:
        """Diagnoses, and runs the recovery that the most probable cause selects.

        It takes the newest backup where it needs one. The procedure, who chose it, and the ranked causes are kept in
        the run's journal.

        Args:
            choose: The procedure to run, where causes that are about as likely select different ones.
            confirm: Name of the Compose project: says yes to every question beforehand; it is no choice.
            approve: Answers questions instead.
            waive: Items of checklists to go on without, with the reason.
            operator: Name of the person, for the journal; the login's by default.
            on_event: Called with each event.

        Raises:
            NeedsConfirmation: Several causes are about as likely, and nobody chose: the hint names the choices. Or the
                run waits for a person.
            PreconditionError: The most probable cause is nothing that a procedure mends; the hint says what to do.
            InvalidInputError: No cause that was found selects what was chosen.
            LockedError: Another run is going on or unfinished.
        """
        options, asker = self._options(confirm, approve, waive, operator)
        ongoing = self._native.recover_diagnosed(json.dumps(choose), options, asker)
        report = await follow(ongoing, on_event, asker)
        if report["procedure"] == "recover-database":
            return decode(models.DatabaseReport, report)
        return decode(models.Recovered, report)

    async def resume(
        self,
        run_id: str,
        *,
        confirm: str | None = None,
        approve: Approver | None = None,
        waive: Mapping[str, str] | None = None,
        operator: str | None = None,
        on_event: EventCallback | None = None,
    ) -> models.DatabaseReport | models.Recovered | models.FilesReport | models.BackupInfo | models.SalvageReport:
        """Goes on with a run that was killed, cancelled or failed, or that waits.

        Steps that are done are not done again. Arguments are those of `recover_database`.

        Raises:
            NotFoundError: There is no such run.
            LockedError: A process is at it.
            NeedsConfirmation: It waits for a person, still or again.
        """
        options, asker = self._options(confirm, approve, waive, operator)
        report = await follow(self._native.resume(run_id, options, asker), on_event, asker)
        procedure = report["procedure"]
        if procedure == "recover-database":
            return decode(models.DatabaseReport, report)
        if procedure == "recovered":
            return decode(models.Recovered, report)
        if procedure == "restore-files":
            return decode(models.FilesReport, report)
        if procedure == "back-up":
            return decode(models.BackupInfo, report)
        if procedure == "salvage-database":
            return decode(models.SalvageReport, report)
        raise UnsupportedError(
            f"this version cannot show the report of `{procedure}`", code="unsupported", run_id=run_id
        )

    async def rollback(self, run_id: str, *, because: str, operator: str | None = None) -> tuple[str, ...]:
        """Undoes a run, in reverse order.

        Returns:
            The steps undone.
        """
        options, _ = self._options(None, None, None, operator)
        steps: list[str] = await follow(self._native.roll_back(run_id, because, options))
        return tuple(steps)

    async def approve(self, run_id: str, name: str | None = None, *, by: str | None = None) -> str:
        """Records a person's yes to what a paused run waits for; `resume` then goes on.

        Args:
            run_id: The run, as `NeedsConfirmation` names it.
            name: What is approved, where the run waits for several things.
            by: Name of the person; the login's by default.

        Returns:
            What was approved.
        """
        text: str = json.loads(await self._native.approve(run_id, name, by or login()))
        return text

    async def runs(self) -> models.Runs:
        """Lists the runs of the system, oldest first."""
        runs, unreadable = json.loads(await self._native.runs())
        return decode(models.Runs, {"runs": runs, "unreadable": unreadable})

    def _options(
        self,
        confirm: str | None,
        approve: Approver | None,
        waive: Mapping[str, str] | None,
        operator: str | None,
    ) -> tuple[str, Asker | None]:
        if confirm is not None and approve is not None:
            raise InvalidInputError("`confirm` and `approve` exclude each other", code="invalid_input")
        if confirm is not None and confirm != self.project:
            raise InvalidInputError(
                f"`confirm` is `{confirm}`, and the project is `{self.project}`",
                code="invalid_input",
                hint="check that this is the system you mean; nothing was started",
            )
        by = operator or login()
        return run_options(by, waive, is_confirmed=confirm is not None), Asker(approve, by) if approve else None
