"""Binds plain data (TOML tables, environment variables) to frozen dataclasses, once, at the edge.

A field says in its metadata how it reads: `{"unit": "bytes"}` takes `64MB`, `{"unit": "seconds"}` takes `5s`,
`{"help": ...}` is what the reference page and `walcast init` print. Every mistake names the place, the line and
the nearest key that exists.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from walcast.model import ConfigError
from walcast.model.secret import Secret

T = TypeVar("T")

_BYTES = {"": 1, "b": 1, "kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30, "tb": 1 << 40}
_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_QUANTITY = re.compile(r"^\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*$")
_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"0", "false", "no", "off"}


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where a value was written: `walcast.toml:12 source.dsn`, or an environment variable."""

    path: tuple[str, ...] = ()
    locate: Callable[[tuple[str, ...]], str] = ".".join

    def child(self, name: str) -> Place:
        return Place((*self.path, name), self.locate)

    def __str__(self) -> str:
        return self.locate(self.path)


def settings_of(target: type[Any]) -> dict[str, dataclasses.Field[Any]]:
    """The fields that a person sets. `{"internal": True}` in a field's metadata keeps it for the program."""
    return {f.name: f for f in dataclasses.fields(target) if f.init and not f.metadata.get("internal")}


def bind(target: type[T], data: Mapping[str, Any], place: Place) -> T:
    """Makes a `target` of a table. Raises ConfigError for unknown keys, missing keys and wrong values."""
    hints = typing.get_type_hints(target)
    fields = settings_of(target)
    for key in data:
        if key not in fields:
            raise unknown_key(place.child(key), key, fields)
    values = {}
    for name, field in fields.items():
        if name in data:
            values[name] = convert(data[name], hints[name], field.metadata, place.child(name))
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ConfigError(
                f"{place.child(name)}: this setting is missing", hint=field.metadata.get("help")
            )
    try:
        return target(**values)
    except ValueError as error:
        raise ConfigError(f"{place}: {error}") from error


def unknown_key(place: Place, key: str, known: typing.Iterable[str]) -> ConfigError:
    near = difflib.get_close_matches(key, list(known), n=1, cutoff=0.5)
    options = ", ".join(sorted(known))
    return ConfigError(
        f"{place}: there is no setting {key!r}",
        hint=f"did you mean {near[0]!r}?" if near else f"settings here: {options}",
    )


def convert(value: Any, hint: Any, metadata: Mapping[str, Any], place: Place) -> Any:
    """One value to its type. Text is accepted for every scalar, since environment variables are text."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin not in (dict, Mapping):
        value = _indirect(value, place)
    if origin in (typing.Union, types.UnionType):
        if value is None or (value == "" and type(None) in arguments):
            return None
        kinds = [a for a in arguments if a is not type(None)]
        return convert(value, _kind_for(value, kinds), metadata, place)
    if origin is typing.Literal:
        if isinstance(value, bool) and {"on", "off"} <= set(arguments):
            value = "on" if value else "off"
        if value in arguments:
            return value
        near = difflib.get_close_matches(str(value), [str(a) for a in arguments], n=1)
        guess = f"did you mean {near[0]!r}? " if near else ""
        raise _wrong(place, f"one of {', '.join(map(str, arguments))}", value, guess)
    if origin in (tuple, list):
        items = (
            [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
        )
        if not isinstance(items, (list, tuple)):
            raise _wrong(place, "a list", value)
        return origin(convert(v, arguments[0], {}, place.child(str(i))) for i, v in enumerate(items))
    if origin in (dict, Mapping) or hint is dict:
        if not isinstance(value, Mapping):
            raise _wrong(place, "a table", value)
        inner = arguments[1] if arguments else Any
        return {str(k): convert(v, inner, metadata, place.child(str(k))) for k, v in value.items()}
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise _wrong(place, "a table", value)
        return bind(typing.cast(Any, hint), value, place)
    return _scalar(value, hint, metadata, place)


def _kind_for(value: Any, kinds: list[Any]) -> Any:
    """Which of several kinds a value is meant as: a table for a dataclass or a mapping, text for text."""
    if len(kinds) == 1:
        return kinds[0]
    if isinstance(value, Mapping):
        return next((kind for kind in kinds if dataclasses.is_dataclass(kind)), typing.Any)
    return str if isinstance(value, str) and str in kinds else typing.Any


def _scalar(value: Any, hint: Any, metadata: Mapping[str, Any], place: Place) -> Any:
    unit = metadata.get("unit")
    if unit in ("bytes", "seconds"):
        return _quantity(value, unit, hint, place)
    if hint is bool:
        return _boolean(value, place)
    if hint in (int, float):
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise _wrong(place, "a number", value)
        if hint is int and isinstance(value, float):
            raise _wrong(place, "a whole number", value)
        try:
            return hint(value)
        except ValueError:
            raise _wrong(place, "a whole number" if hint is int else "a number", value) from None
    if hint in (str, Path, Secret):
        if not isinstance(value, str) and hint is Secret:
            raise ConfigError(f"{place}: expected text in quotes")  # whatever it is, it is not repeated
        if not isinstance(value, str):
            raise _wrong(place, "text in quotes", value)
        return Path(os.path.expanduser(value)) if hint is Path else hint(value)
    return value


def _boolean(value: Any, place: Place) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise _wrong(place, "true or false", value)


def _quantity(value: Any, unit: str, hint: Any, place: Place) -> Any:
    scale = _BYTES if unit == "bytes" else _SECONDS
    example = "a size such as 64MB" if unit == "bytes" else "a time such as 500ms, 5s or 2min"
    found = _QUANTITY.match(str(value)) if not isinstance(value, bool) else None
    if found is None or found[2].lower() not in scale:
        raise _wrong(place, example, value)
    number = float(found[1]) * scale[found[2].lower()]
    return int(number) if hint is int else number


def human(value: Any, unit: str | None) -> Any:
    """A quantity as a person writes it: `64MB`, `10s`."""
    if unit == "bytes" and isinstance(value, int) and value:
        for name, size in (("GB", 1 << 30), ("MB", 1 << 20), ("kB", 1 << 10)):
            if value % size == 0:
                return f"{value // size}{name}"
    if unit == "seconds" and isinstance(value, (int, float)):
        return f"{value * 1000:g}ms" if 0 < value < 1 else f"{value:g}s"
    return value


def _indirect(value: Any, place: Place) -> Any:
    """`{ env = "NAME" }` and `{ file = "/run/secrets/x" }` stand for the value that is kept elsewhere."""
    if not isinstance(value, Mapping) or len(value) != 1:
        return value
    (kind, where), *_ = value.items()
    if kind == "env" and isinstance(where, str):
        if where not in os.environ:
            raise ConfigError(
                f"{place}: the environment variable {where} is not set", hint=f"export {where}=..."
            )
        return os.environ[where]
    if kind == "file" and isinstance(where, str):
        try:
            return Path(where).expanduser().read_text().strip()
        except OSError as error:
            raise ConfigError(f"{place}: cannot read {where}: {error.strerror}") from error
    return value


def _wrong(place: Place, wanted: str, value: Any, guess: str = "") -> ConfigError:
    return ConfigError(f"{place}: expected {wanted}, not {value!r}", hint=guess.strip() or None)
