"""The backups of a system."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Literal

from . import models
from ._arguments import Which, login, run_options, selector, several
from ._decode import decode
from ._runs import EventCallback, follow

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._native import NativeRecovery

__all__ = ["Backups"]


class Backups:
    """The backups of a system."""

    __slots__ = ("_native",)

    def __init__(self, native: NativeRecovery) -> None:
        """Wraps the extension's object; use `Recovery.backups`."""
        self._native = native

    async def create(
        self,
        tags: Iterable[str] = (),
        *,
        components: Iterable[str] = (),
        kind: Literal["logical", "physical"] = "logical",
        operator: str | None = None,
        on_event: EventCallback | None = None,
    ) -> models.BackupInfo:
        """Takes a backup of the running system and verifies its bytes.

        Args:
            tags: Tags to find it by.
            components: What to back up; by default the database and every component that is configured.
            kind: How the database is kept: as rows, which go into newer servers too, or as the server's data files,
                which are back in the time it takes to copy them.
            operator: Name of the person, for the journal; the login's by default.
            on_event: Called with each event.

        Raises:
            LockedError: A recovery is going on.
            NoSpaceError: The store is full; nothing of the backup is visible then. Also an `OSError`.
        """
        named = {"tags": several("tags", tags), "components": several("components", components), "kind": kind}
        request = json.dumps(named)
        ongoing = self._native.back_up(request, run_options(operator or login(), None, is_confirmed=False))
        return decode(models.BackupInfo, await follow(ongoing, on_event))

    async def list(self) -> models.Listing:
        """Lists the backups, oldest first, with those that are damaged.

        Raises:
            NotFoundError: There is no repository yet.
        """
        return decode(models.Listing, json.loads(await self._native.backups()))

    async def init_copy(self) -> str:
        """Makes the configured second store a copy of the repository, without backups yet.

        Once it is one, nothing happens.

        Returns:
            Id of the repository.

        Raises:
            NotFoundError: No second store is configured, or there is no repository.
            ConflictError: It is another repository.
        """
        made: str = json.loads(await self._native.init_copy())
        return made

    async def copy(self, backup: Which | None = None) -> models.CopyReport:
        """Copies backups into the second store, and reads every byte of them back there.

        Cancelled or killed at any moment, the next call goes on.

        Args:
            backup: One that is named, as for `Recovery.recover_database`; by default all that the copy lacks.

        Raises:
            NotFoundError: No second store is configured, or it is no copy of the repository yet.
            NoSpaceError: It is full. Also an `OSError`.
        """
        which = None if backup is None else selector(backup)
        return decode(models.CopyReport, json.loads(await self._native.copy_backups(json.dumps(which))))
