"""Secrets do not show."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from walcast.model.secret import Secret


@dataclass(frozen=True)
class Config:
    dsn: Secret


def test_a_secret_shows_nowhere_unless_revealed() -> None:
    secret = Secret("hunter2")
    assert "hunter2" not in f"{secret} {secret!r} {[secret]} {Config(secret)}"
    assert secret.reveal() == "hunter2"
    with pytest.raises(TypeError):
        json.dumps({"dsn": secret})


def test_secrets_compare_by_value_and_an_empty_one_is_false() -> None:
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a")}) == 1
    assert not Secret("")
