"""Plain data to frozen settings: places, units, near misses; TOML with its lines, and the environment over it."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from walcast.app.binding import Place, bind, human, settings_of
from walcast.app.logs import JsonFormatter, TextFormatter
from walcast.app.scaffold import to_toml
from walcast.app.settings import Settings, load, shown
from walcast.app.toml import TomlFile
from walcast.model import ConfigError, Lsn, OperatorError, SourceIdentity
from walcast.model.secret import Secret
from walcast.model.token import Token


@dataclass(frozen=True)
class Inner:
    name: str = "x"


@dataclass(frozen=True)
class Example:
    """One field of each kind."""

    needed: str = field(metadata={"help": "say it"})
    size: int = field(default=1, metadata={"unit": "bytes"})
    wait: float = field(default=1.0, metadata={"unit": "seconds"})
    flag: bool = False
    count: int = 0
    ratio: float = 0.5
    most: int | None = None
    mode: Literal["auto", "on", "off"] = "auto"
    names: tuple[str, ...] = ()
    lists: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    path: Path = Path()
    secret: Secret | None = None
    inner: Inner = Inner()
    hidden: int = field(default=7, metadata={"internal": True})

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError("count must not be negative")


def bound(**data: Any) -> Example:
    return bind(Example, {"needed": "n"} | data, Place(("here",)))


def refusal(**data: Any) -> tuple[str, str]:
    with pytest.raises(ConfigError) as caught:
        bound(**data)
    return caught.value.message, caught.value.hint or ""


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({"size": "64MB"}, {"size": 64 << 20}),
        ({"size": "1.5 kB"}, {"size": 1536}),
        ({"size": 4096}, {"size": 4096}),
        ({"wait": "500ms"}, {"wait": 0.5}),
        ({"wait": "2min"}, {"wait": 120.0}),
        ({"wait": 3}, {"wait": 3.0}),
        ({"flag": "yes"}, {"flag": True}),
        ({"flag": "0"}, {"flag": False}),
        ({"count": "12"}, {"count": 12}),
        ({"most": ""}, {"most": None}),
        ({"most": "5"}, {"most": 5}),
        ({"mode": True}, {"mode": "on"}),
        ({"names": "a, b"}, {"names": ("a", "b")}),
        ({"lists": {"t": ["a", "b"]}}, {"lists": {"t": ("a", "b")}}),
        ({"path": "~"}, {"path": Path.home()}),
        ({"secret": "s"}, {"secret": Secret("s")}),
        ({"inner": {"name": "y"}}, {"inner": Inner("y")}),
    ],
)
def test_values_are_read_by_kind(written: dict[str, Any], expected: dict[str, Any]) -> None:
    found = bound(**written)
    assert {name: getattr(found, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("written", "message", "hint"),
    [
        ({"sizes": 1}, "here.sizes: there is no setting 'sizes'", "did you mean 'size'?"),
        ({"zzz": 1}, "here.zzz: there is no setting 'zzz'", "settings here: count, flag"),
        ({"hidden": 1}, "here.hidden: there is no setting 'hidden'", ""),
        ({"size": "64 bananas"}, "here.size: expected a size such as 64MB, not '64 bananas'", ""),
        ({"size": True}, "here.size: expected a size such as 64MB, not True", ""),
        ({"wait": "soon"}, "here.wait: expected a time such as 500ms, 5s or 2min, not 'soon'", ""),
        ({"flag": "maybe"}, "here.flag: expected true or false, not 'maybe'", ""),
        ({"count": "1.5"}, "here.count: expected a whole number, not '1.5'", ""),
        ({"count": False}, "here.count: expected a number, not False", ""),
        ({"count": 1.5}, "here.count: expected a whole number, not 1.5", ""),
        ({"mode": "onn"}, "here.mode: expected one of auto, on, off, not 'onn'", "did you mean 'on'?"),
        ({"names": 3}, "here.names: expected a list, not 3", ""),
        ({"lists": "x"}, "here.lists: expected a table, not 'x'", ""),
        ({"inner": {"nam": 1}}, "here.inner.nam: there is no setting 'nam'", "did you mean 'name'?"),
        ({"secret": 12}, "here.secret: expected text in quotes", ""),
        ({"count": -1}, "here: count must not be negative", ""),
        (
            {"needed": {"env": "NOT_SET_ANYWHERE"}},
            "here.needed: the environment variable NOT_SET_ANYWHERE",
            "export",
        ),
        ({"needed": {"file": "/none"}}, "here.needed: cannot read /none: No such file or directory", ""),
    ],
)
def test_a_mistake_names_its_place_and_what_is_near(written: dict[str, Any], message: str, hint: str) -> None:
    said, advice = refusal(**written)
    assert said.startswith(message)
    assert hint in advice


def test_a_missing_setting_says_what_it_is_for() -> None:
    with pytest.raises(ConfigError, match=r"here.needed: this setting is missing") as caught:
        bind(Example, {}, Place(("here",)))
    assert caught.value.hint == "say it"


def test_a_value_kept_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SECRET_TEXT", "hush")
    (tmp_path / "secret").write_text("hush\n")
    assert bound(secret={"env": "SECRET_TEXT"}) == bound(secret={"file": str(tmp_path / "secret")})


@given(st.integers(0, 1 << 45), st.floats(0.001, 1e5))
def test_a_quantity_as_people_write_it_reads_back(size: int, wait: float) -> None:
    found = bound(size=human(size, "bytes"), wait=human(wait, "seconds"))
    assert found.size == size
    assert found.wait == pytest.approx(wait, rel=1e-5)


TOML = """\
# walcast
[source]
dsn = "host=db password=hunter2"
include = ["a.*",
           "b"]

[source.filters]
"a.b" = "x > 1"

[sinks."my lake"]
type = "duckdb"
path = "copy.duckdb"
"""


def written(tmp_path: Path, text: str = TOML) -> Path:
    path = tmp_path / "walcast.toml"
    path.write_text(text)
    return path


def settings(tmp_path: Path, text: str = TOML, **environment: str) -> Settings:
    return load(written(tmp_path, text), environment)


def test_every_key_knows_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = TomlFile.read(written(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert file.locate(("source", "dsn")) == "walcast.toml:3: source.dsn"
    assert file.locate(("source", "filters", "a.b")) == "walcast.toml:8: source.filters.a.b"
    assert file.locate(("sinks", "my lake", "path")) == "walcast.toml:12: sinks.my lake.path"
    assert file.locate(("source", "include", "1")) == "walcast.toml:4: source.include.1"
    assert file.locate(("nowhere",)) == "walcast.toml: nowhere"


def test_the_file_and_the_environment_say_the_same_things(tmp_path: Path) -> None:
    found = settings(
        tmp_path,
        WALCAST_SOURCE__SLOT="other",
        WALCAST_SOURCE__INCLUDE="c.*, d",
        WALCAST_PIPELINE__MEMORY="128MB",
        WALCAST_LOG_LEVEL="debug",
        WALCAST_CONFIG="not a setting",
        HOME="/root",
    )
    assert found.source.slot == "other"
    assert found.source.include == ("c.*", "d")
    assert found.source.filters == {"a.b": "x > 1"}
    assert found.pipeline.memory == 128 << 20
    assert [(sink.name, sink.type) for sink in found.sinks] == [("my lake", "duckdb")]
    with pytest.raises(ConfigError, match=r"^WALCAST_SOURCE__SLTO: there is no setting 'slto'") as caught:
        settings(tmp_path, WALCAST_SOURCE__SLTO="x")
    assert caught.value.hint == "did you mean 'slot'?"
    with pytest.raises(ConfigError, match="'dsn' is not a table"):
        settings(tmp_path, WALCAST_SOURCE__DSN__X="x")


def test_what_is_shown_hides_secrets_and_reads_back(tmp_path: Path) -> None:
    found = settings(tmp_path)
    assert "hunter2" not in repr(found) + str(shown(found))
    text = to_toml(shown(found, units=True))
    assert "hunter2" not in text
    again = settings(tmp_path, text, WALCAST_SOURCE__DSN=found.source.dsn.reveal())
    assert again.source == found.source
    assert again.engine == found.engine
    assert again.sinks == found.sinks


def test_settings_are_frozen_and_internal_ones_are_nobodys(tmp_path: Path) -> None:
    found = settings(tmp_path)
    with pytest.raises(AttributeError):
        found.source.slot = "x"  # type: ignore[misc]  # that is what is tested
    assert "budget_bytes" not in settings_of(type(found.source))


def test_tokens_are_read_back_and_checked() -> None:
    token = Token(7_710_337_862_653_450_972, 2, Lsn.parse("1/AB"))
    assert Token.parse(f" {token}\n") == token
    token.check(SourceIdentity(token.system_id, 2, 180_000, "x"))
    with pytest.raises(OperatorError, match="another server"):
        token.check(SourceIdentity(1, 2, 180_000, "x"))
    with pytest.raises(OperatorError, match="timeline 2, this server is on 1"):
        token.check(SourceIdentity(token.system_id, 1, 180_000, "x"))
    for text in ("", "x", "1-2", "zz-1-0/0", "1-1-0"):
        with pytest.raises(ConfigError, match="not a token"):
            Token.parse(text)


def test_logs_are_one_line_an_event() -> None:
    record = logging.makeLogRecord(
        {"name": "walcast.x", "levelname": "INFO", "msg": "made", "slot": "a b", "n": 1, "empty": ""}
    )
    line = TextFormatter().format(record)
    assert line.endswith('info    walcast.x made slot="a b" n=1 empty=""')
    parsed = json.loads(JsonFormatter().format(record))
    assert {name: parsed[name] for name in ("level", "logger", "event", "slot", "n")} == {
        "level": "info",
        "logger": "walcast.x",
        "event": "made",
        "slot": "a b",
        "n": 1,
    }
