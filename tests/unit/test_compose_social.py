"""The compose file of the social network names what there is: parts, configuration, commands, extras. It is not run here."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from walcast.app.toml import TomlFile
from walcast.cli.main import COMMANDS

ROOT = Path(__file__).parents[2]
FILE = ROOT / "deploy/compose/social.yml"
OURS = ("initdb", "walcast", "application")
SERVICE = {
    "image",
    "build",
    "command",
    "environment",
    "ports",
    "volumes",
    "healthcheck",
    "depends_on",
    "restart",
}
"""Of the schema's keys those that are used here: another is a typing error, or belongs here as well."""
CONDITIONS = {"service_started", "service_healthy", "service_completed_successfully"}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return found


def test_it_keeps_to_the_schema_and_says_that_it_was_not_run(compose: dict[str, Any]) -> None:
    assert "NOT RUN" in FILE.read_text()
    assert {key for key in compose if not key.startswith("x-")} == {"name", "services", "volumes"}
    assert set(compose["services"]) == {"postgres", "arangodb", "elasticsearch", "kibana", *OURS}
    for service in compose["services"].values():
        assert set(service) <= SERVICE
        assert all(isinstance(value, str) for value in service.get("environment", {}).values())
        assert set(service.get("healthcheck", {})) <= {"test", "interval", "retries"}
        assert set(service.get("build", {})) <= {"context", "dockerfile_inline"}
        for volume in service.get("volumes", []):
            assert volume.partition(":")[0] in compose["volumes"]
        needed = service.get("depends_on", {})
        assert set(needed) <= set(compose["services"])
        for how in needed.values() if isinstance(needed, dict) else ():
            assert how["condition"] in CONDITIONS


def test_it_is_reached_from_this_machine_alone_and_holds_no_password(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert sorted(re.fullmatch(r"127\.0\.0\.1:(\d+):\1", port)[1] for port in ports) == [  # type: ignore[index]
        "5000",
        "5432",
        "5601",
        "8529",
        "9200",
    ]
    for service in compose["services"].values():
        for name, value in service.get("environment", {}).items():
            if "PASSWORD" in name:
                assert value.startswith("${")
            assert not re.search(r"://\w+:\w+@", value)


def test_its_configuration_is_there_and_finds_its_variables(
    compose: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = compose["services"]["application"]["environment"]
    config = ROOT / "examples/social" / environment["WALCAST_CONFIG"]
    wanted = set(re.findall(r'\{ env = "(\w+)" \}', config.read_text()))
    assert wanted == set(environment) - {"WALCAST_CONFIG", "WALCAST_PIPELINE__STATE_DIR", "SECRET_KEY"}
    file = TomlFile.read(config)
    file.overlay(environment)
    assert file.data["pipeline"]["state_dir"] == "/state"
    assert (file.data["sinks"]["graph"]["type"], file.data["sinks"]["search"]["type"]) == (
        "arangodb",
        "elasticsearch",
    )
    for name in OURS:
        assert compose["services"][name]["environment"] == environment
        assert compose["services"][name]["volumes"] == ["state:/state"]
    hosts = {value.partition("://")[2].rpartition("@")[2] for value in environment.values() if "://" in value}
    assert {re.split("[:/]", host)[0] for host in hosts} == {"postgres", "arangodb", "elasticsearch"}


def test_its_commands_and_extras_are_there(compose: dict[str, Any]) -> None:
    for name in OURS:
        program, app, social, command, *rest = compose["services"][name]["command"]
        assert (program, app, social) == ("flask", "--app", "social")
        assert command in ("initdb", "run", "walcast")
        if command == "walcast":
            assert rest[0] in COMMANDS
    made = compose["services"]["application"]["build"]["dockerfile_inline"]
    found = re.search(r"/walcast\[([\w,]+)\]", made)
    assert found is not None
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(found[1].split(",")) <= set(project["project"]["optional-dependencies"])
