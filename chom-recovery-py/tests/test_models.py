from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import Any

import pytest

from chom_recovery import models
from chom_recovery._decode import decode

BACKUP: dict[str, Any] = {
    "host": "web-1",
    "system": "chom",
    "id": "01K9A6V3C4D5E6F7G8H9J0KMNP",
    "repository": "0123",
    "point": "2026-11-23T10:00:00.123456789Z",
    "committed": "2026-11-23T10:00:09Z",
    "stored_len": 10,
    "plain_len": 100,
    "components": ["database"],
    "database": {"flavour": "mysql", "version": "9.7.4", "server_uuid": None, "position": None, "gtid_set": ""},
    "tags": [],
    "warnings": [],
    "level": None,
    "verified": None,
    "signer": "ab",
    "is_future_dated": False,
    "manifest_damage": None,
}


def test_times_are_aware_and_nested_values_are_objects() -> None:
    backup = decode(models.BackupInfo, BACKUP)
    assert backup.point == datetime(2026, 11, 23, 10, 0, 0, 123456, tzinfo=UTC)
    assert backup.database == models.DatabaseFacts("mysql", "9.7.4", None, "")


def test_what_a_newer_version_adds_is_left_out() -> None:
    assert decode(models.BackupInfo, {**BACKUP, "new": 1}) == decode(models.BackupInfo, BACKUP)


def test_equal_values_are_equal_and_frozen() -> None:
    backup = decode(models.BackupInfo, BACKUP)
    assert hash(backup) == hash(decode(models.BackupInfo, BACKUP))
    with pytest.raises(dataclasses.FrozenInstanceError):
        backup.id = "another"  # type: ignore[misc]


def test_a_salvage_names_what_is_missing() -> None:
    torn = {"schema": "shop", "table": "orders", "extent": "part", "rows": 5, "level": 1, "why": "page 7 is damaged"}
    sound = {"schema": "shop", "table": "users", "extent": "whole", "rows": 9, "level": 1}
    report = decode(
        models.SalvageReport,
        {
            "backup": {**BACKUP, "is_salvaged": True},
            "level": 1,
            "attempts": [{"level": 0, "why": "it ended"}],
            "rows": 14,
            "whole": 1,
            "part": 1,
            "nothing": 0,
            "tables": [{**torn, "unread": [{"after": "41", "before": None}]}, sound],
            "lost": [{"what": "shop.v", "why": "no such column"}],
            "damaged_pages": [],
        },
    )
    assert report.backup.is_salvaged
    assert not decode(models.BackupInfo, BACKUP).is_salvaged
    assert report.tables[0].unread == (models.KeyRange("41", None),)
    assert (report.tables[1].unread, report.tables[1].why) == ((), None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stored_len": "10"}, "BackupInfo.stored_len is str, not int"),
        ({"stored_len": True}, "BackupInfo.stored_len is bool, not int"),
        ({"tags": ["a", 1]}, r"BackupInfo.tags\[1\] is int, not str"),
        ({"database": {"flavour": "mysql"}}, r"BackupInfo\.database\.version is missing"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        decode(models.BackupInfo, {**BACKUP, **change})


def test_an_unknown_status_is_no_status() -> None:
    answer = {"probe": "mysql", "status": "splendid", "summary": "", "latency_ms": 1}
    with pytest.raises(TypeError, match=r"Answer\.status"):
        decode(models.Answer, answer)


def test_from_is_a_field_in_json_and_a_keyword_in_python() -> None:
    raised = decode(models.RaisedCounter, {"table": "chom.orders", "from": 5, "to": 9})
    assert (raised.from_, raised.to) == (5, 9)


def test_a_plan_says_where_each_estimate_comes_from() -> None:
    loading = {
        "type": "step",
        "step": "database/restore-beside",
        "effect": "idempotent",
        "undo": {"kind": "with", "text": "remove it"},
        "estimate": {"ms": 9000, "basis": "measured", "runs": 3},
        "budget_ms": 600000,
        "needs_approval": False,
    }
    approval = {"type": "approval", "name": "database/replace", "ask": "replace it?"}
    plan = decode(
        models.Plan,
        {
            "system": "chom",
            "procedure": "recover-database",
            "request": {},
            "items": [loading, approval],
            "boundary": None,
            "estimate_ms": 9000,
            "outage_ms": None,
            "hash": "ab",
            "fits_rto": True,
        },
    )
    assert plan.items[0].estimate == models.Estimate(9000, "measured", runs=3)
    assert (plan.items[1].ask, plan.items[1].estimate) == ("replace it?", None)


def test_a_report_finds_answers_by_probe() -> None:
    down = {"probe": "mysql", "status": "down", "summary": "no", "latency_ms": 1, "facts": {"errno": "2002"}}
    report = decode(
        models.HealthReport,
        {"mode": "full", "overall": "down", "answers": [down], "started": "2026-11-23T10:00:00Z", "took_ms": 3},
    )
    assert not report.is_healthy
    found = report.answer("mysql")
    assert found is not None
    assert found.facts["errno"] == "2002"
    assert report.answer("redis") is None
