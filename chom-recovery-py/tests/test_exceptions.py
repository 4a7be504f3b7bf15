from __future__ import annotations

import copy
import json
import pickle

import pytest

from chom_recovery import exceptions
from chom_recovery.exceptions import ChomRecoveryError, from_json

RECORD = {
    "kind": "not_found",
    "message": "there is no backup of `chom`",
    "context": [["store", "file:/backups"], ["looked at", "3"]],
    "hint": "`chom-recovery backup list` shows what there is",
    "causes": ["no such key"],
}


def make(kind: str) -> ChomRecoveryError:
    return from_json(json.dumps({**RECORD, "kind": kind}))


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        ("invalid_input", ValueError),
        ("no_space", OSError),
        ("not_found", FileNotFoundError),
        ("not_found", LookupError),
        ("already_exists", FileExistsError),
        ("authentication", PermissionError),
        ("denied", PermissionError),
        ("retained", PermissionError),
        ("unreachable", ConnectionError),
        ("timeout", TimeoutError),
        ("unsupported", NotImplementedError),
    ],
)
def test_code_that_knows_only_builtins_catches_what_it_means(kind: str, builtin: type[Exception]) -> None:
    error = make(kind)
    assert isinstance(error, builtin)
    assert error.code == kind


def test_a_code_of_a_newer_version_is_still_an_error_of_this_package() -> None:
    error = make("from_the_future")
    assert type(error) is ChomRecoveryError
    assert error.code == "from_the_future"


def test_every_class_stands_for_one_code() -> None:
    public = {name for name in exceptions.__all__ if name != "ChomRecoveryError"}
    assert {cls.__name__ for cls in exceptions._CLASSES.values()} == public
    assert len(exceptions._CLASSES) == len(public)


def test_str_has_the_facts_and_a_traceback_the_hint() -> None:
    error = make("not_found")
    assert str(error) == "there is no backup of `chom` (store: file:/backups, looked at: 3)"
    assert error.__notes__ == ["caused by: no such key", f"hint: {RECORD['hint']}"]


def test_repr_names_class_and_code_and_leaves_out_what_is_not_known() -> None:
    assert repr(ChomRecoveryError("it failed")) == "ChomRecoveryError('it failed', code='failed')"
    assert repr(make("locked")).startswith("LockedError('there is no backup of `chom`', code='locked', hint=")


@pytest.mark.parametrize("kind", ["failed", *exceptions._CLASSES])
def test_errors_cross_processes_whole(kind: str) -> None:
    error = make(kind)
    error.run_id = "01K9ZZZZZZZZZZZZZZZZZZZZZZ"
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):  # noqa: S301 - it is our own
        assert type(again) is type(error)
        assert repr(again) == repr(error)
        assert again.__notes__ == error.__notes__
        assert again.causes == error.causes


def test_facts_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        make("failed").context["store"] = "elsewhere"  # type: ignore[index]
