"""JSON to dataclasses, led by their annotations.

A field that the JSON has and the class lacks is left out: newer versions may say more. A field that the class needs
and the JSON lacks is an error.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import functools
import types
import typing
from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeVar

T = TypeVar("T")


def decode(cls: type[T], value: Any) -> T:
    """Makes a `cls` of parsed JSON.

    Raises:
        TypeError: The JSON does not fit `cls`; the place is named.
    """
    return typing.cast("T", _decode(cls, value, cls.__name__))


@functools.cache
def _fields(cls: Any) -> dict[str, tuple[Any, bool]]:
    hints = typing.get_type_hints(cls)
    missing = dataclasses.MISSING
    return {
        field.name: (hints[field.name], field.default is missing and field.default_factory is missing)
        for field in dataclasses.fields(cls)
    }


def _decode(kind: Any, value: Any, at: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if origin is types.UnionType or origin is typing.Union:
        if value is None and types.NoneType in arguments:
            return None
        *others, last = (a for a in arguments if a is not types.NoneType)
        for inner in others:
            with contextlib.suppress(TypeError):
                return _decode(inner, value, at)
        return _decode(last, value, at)
    if origin is tuple:
        items = _expect(list, value, at)
        if arguments[-1] is Ellipsis:
            return tuple(_decode(arguments[0], item, f"{at}[{i}]") for i, item in enumerate(items))
        return tuple(_decode(a, item, f"{at}[{i}]") for i, (a, item) in enumerate(zip(arguments, items, strict=True)))
    if origin is Mapping:
        pairs = _expect(dict, value, at)
        return types.MappingProxyType({k: _decode(arguments[1], v, f"{at}.{k}") for k, v in pairs.items()})
    if dataclasses.is_dataclass(kind):
        return _decode_object(kind, _expect(dict, value, at), at)
    if kind is datetime:
        return datetime.fromisoformat(_expect(str, value, at))
    if kind is float and type(value) is int:
        return float(value)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        try:
            return kind(value)
        except ValueError as e:
            raise TypeError(f"{at}: {e}") from None
    return _expect(kind, value, at)


def _decode_object(cls: Any, value: dict[str, Any], at: str) -> Any:
    decoded = {}
    for name, (kind, is_needed) in _fields(cls).items():
        # `from_` stands for `from`, which Python keeps for itself.
        key = name.removesuffix("_")
        if key in value:
            decoded[name] = _decode(kind, value[key], f"{at}.{key}")
        elif is_needed:
            raise TypeError(f"{at}.{name} is missing")
    return cls(**decoded)


def _expect(kind: type[T], value: Any, at: str) -> T:
    # `True` is an `int` to Python, and not to JSON.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(f"{at} is {type(value).__name__}, not {kind.__name__}")
    return value
