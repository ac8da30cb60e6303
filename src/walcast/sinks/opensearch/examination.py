"""Which cluster this is, and what stands in the way of writing to it."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from walcast.model import Finding, OperatorError, WalcastError, finding_of
from walcast.sinks.opensearch import indexes
from walcast.sinks.opensearch.client import Client
from walcast.sinks.opensearch.config import SearchServerConfig

Family = Literal["opensearch", "elasticsearch"]
_OLDEST: Final[dict[Family, int]] = {"opensearch": 2, "elasticsearch": 8}
_NAMES: Final[dict[Family, str]] = {"opensearch": "OpenSearch", "elasticsearch": "Elasticsearch"}
_ASKING: Final = "asking the cluster for its version"


class Version(NamedTuple):
    """`largest`: the bytes that a request may have."""

    text: str
    largest: int | None


async def check(client: Client, family: Family) -> Version:
    """Raises OperatorError for another family, and for a version that is too old."""
    found = await client.ask(
        "GET",
        "/_nodes/_local/http?filter_path=nodes.*.version,nodes.*.build_type,nodes.*.http.max_content_length_in_bytes",
        doing=_ASKING,
    )
    (node,) = found["nodes"].values()
    text = node["version"]
    there: Family = "elasticsearch" if client.elastic else "opensearch"
    if there != family:
        raise OperatorError(
            f"this is {_NAMES[there]} {text}, not {_NAMES[family]}", hint=f'write type = "{there}"'
        )
    if int(text.split(".", maxsplit=1)[0]) < _OLDEST[family]:
        raise OperatorError(
            f"this is {_NAMES[there]} {text}; the sink needs {_OLDEST[family]} or later",
            hint="upgrade the cluster",
        )
    return Version(text, node.get("http", {}).get("max_content_length_in_bytes"))


async def examine(config: SearchServerConfig, family: Family, owner: str) -> list[Finding]:
    """Reachability, credentials, version, health, blocks and the disk."""
    findings: list[Finding] = []
    try:
        async with Client(config) as client:
            await check(client, family)
            findings += await _health(client)
            findings += await _blocks(client, owner)
            findings += await _disk(client)
    except WalcastError as error:
        findings.append(finding_of(error, "target"))
    return findings


async def _health(client: Client) -> list[Finding]:
    health = await client.ask("GET", "/_cluster/health", doing="asking for the cluster's health")
    if health["status"] != "red":
        return []
    return [
        Finding(
            "error",
            "target_red",
            f"the cluster is red: {health['unassigned_shards']} shards are nowhere",
            "see why: GET /_cluster/allocation/explain",
        )
    ]


async def _blocks(client: Client, owner: str) -> list[Finding]:
    """Indexes of this sink that take no writes."""
    found = await client.ask(
        "GET",
        f"/{indexes.family_of(owner)}*,walcast-stat*/_settings/index.blocks.*?flat_settings=true&expand_wildcards=all",
        doing="asking for the indexes' settings",
    )
    findings = []
    for index, item in found.items():
        blocks = [name for name, value in item["settings"].items() if str(value) == "true"]
        if "index.blocks.read_only_allow_delete" in blocks:
            findings.append(
                Finding(
                    "error",
                    "target_disk",
                    f"{index} takes nothing more: the disk of its node passed the flood-stage watermark",
                    "free some disk; the cluster then takes the block off by itself",
                )
            )
        elif {"index.blocks.write", "index.blocks.read_only"} & set(blocks):
            nulls = ", ".join(f'"{name}": null' for name in blocks)
            findings.append(
                Finding(
                    "error",
                    "target_read_only",
                    f"{index} is read-only ({', '.join(blocks)})",
                    f"PUT /{index}/_settings {{{nulls}}}",
                )
            )
    return findings


async def _disk(client: Client) -> list[Finding]:
    """A node of which the cluster says that its disk is filled beyond the high watermark."""
    settings = await client.ask(
        "GET",
        "/_cluster/settings?include_defaults=true&flat_settings=true&filter_path=*.cluster.routing.allocation.disk.*",
        doing="asking for the watermarks",
    )
    known = {
        name: value
        for part in ("defaults", "persistent", "transient")
        for name, value in settings.get(part, {}).items()
    }
    prefix = "cluster.routing.allocation.disk"
    if str(known.get(f"{prefix}.threshold_enabled", "true")) != "true":
        return []
    high = _share(str(known.get(f"{prefix}.watermark.high", "90%")))
    nodes = await client.ask(
        "GET", "/_nodes/stats/fs?filter_path=nodes.*.name,nodes.*.fs.total", doing="asking for the disks"
    )
    findings = []
    for node in nodes.get("nodes", {}).values():
        total = node["fs"]["total"]
        used = 1 - total["available_in_bytes"] / total["total_in_bytes"] if total.get("total_in_bytes") else 0
        if high is not None and used > high:
            findings.append(
                Finding(
                    "warning",
                    "target_disk",
                    f"the disk of node {node['name']} is {used:.0%} full: above {high:.0%} no shard goes there, and soon it takes"
                    " no writes",
                    "free some disk, or add a node",
                )
            )
    return findings


def _share(text: str) -> float | None:
    """A watermark as a part of the disk; None for one that is told in bytes."""
    if text.endswith("%"):
        return float(text[:-1]) / 100
    try:
        return float(text)
    except ValueError:
        return None
