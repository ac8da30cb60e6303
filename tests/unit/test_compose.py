"""The compose file says what the lab expects: three servers, their ports, names and slots. It is not run here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

FILE = Path(__file__).parents[2] / "deploy/compose/cluster.yml"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return found


def test_it_says_that_it_was_not_run() -> None:
    assert "NOT RUN" in FILE.read_text()


def test_every_part_that_is_named_is_there(compose: dict[str, Any]) -> None:
    assert set(compose["services"]) == {"primary", "replica_one", "replica_two"}
    for service in compose["services"].values():
        for config in service["configs"]:
            assert config["source"] in compose["configs"]
        for volume in service["volumes"]:
            assert volume.partition(":")[0] in compose["volumes"]
        for other in service.get("depends_on", {}):
            assert other in compose["services"]


def test_servers_listen_on_this_machine_alone_at_the_labs_ports(compose: dict[str, Any]) -> None:
    ports = {name: service["ports"] for name, service in compose["services"].items()}
    assert ports == {
        "primary": ["127.0.0.1:5432:5432"],
        "replica_one": ["127.0.0.1:5433:5432"],
        "replica_two": ["127.0.0.1:5434:5432"],
    }


def test_replicas_have_slots_and_count_for_commits(compose: dict[str, Any]) -> None:
    script = compose["configs"]["primary"]["content"]
    (names,) = (part for part in compose["services"]["primary"]["command"] if part.startswith("synchronous_"))
    for name in ("replica_one", "replica_two"):
        assert f"pg_create_physical_replication_slot('{name}'" in script
        assert name in names
        assert compose["services"][name]["environment"]["REPLICA_NAME"] == name


def test_no_password_is_in_it(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for name, value in service["environment"].items():
            if "PASSWORD" in name:
                assert value.startswith("${")
