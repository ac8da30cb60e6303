"""Durability profiles: what a commit waits for, by name; compiled to two settings that need a reload only.

A profile is *how far* a commit must have come (`synchronous_commit`) at *how many* of which replicas
(`synchronous_standby_names`). Every name is pure data here; `guarantee.py` says what it is worth at this moment.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from walcast.model import ConfigError

Level = Literal["off", "local", "remote_write", "on", "remote_apply"]
Method = Literal["none", "any", "first"]

LEVELS: Final[tuple[Level, ...]] = ("off", "local", "remote_write", "on", "remote_apply")
_CUSTOM: Final = re.compile(r"^(any|first):(all|[1-9][0-9]?)(?::([a-z_]+))?$")
_NAMES: Final = re.compile(
    r"^(?:(?P<method>any|first)\s+)?(?P<count>\d+)\s*\((?P<names>.*)\)$", re.IGNORECASE | re.DOTALL
)
_SAFE_NAME: Final = re.compile(r"^[a-z_][a-z0-9_]*$")


@dataclass(frozen=True, slots=True)
class Profile:
    """`count` replicas (0: all there are) chosen by `method` must have a commit as far as `level` says."""

    name: str
    method: Method
    count: int
    level: Level

    @property
    def waits(self) -> bool:
        """Whether a commit waits for any replica at all."""
        return self.method != "none" and self.level not in ("off", "local")

    def needed(self, replicas: int) -> int:
        """How many of so many replicas must answer before a commit returns."""
        if not self.waits:
            return 0
        return self.count or replicas

    def standby_names(self, replicas: Sequence[str]) -> str:
        """The value of synchronous_standby_names on a primary that has these replicas."""
        needed = self.needed(len(replicas))
        if needed == 0 or not replicas:
            return ""
        return f"{self.method.upper()} {needed} ({', '.join(map(_name, replicas))})"

    def settings(self, replicas: Sequence[str]) -> dict[str, str]:
        """Both settings, for a primary that has these replicas."""
        return {"synchronous_commit": self.level, "synchronous_standby_names": self.standby_names(replicas)}

    def check(self, replicas: Sequence[str]) -> None:
        """Raises ConfigError when so many replicas can never satisfy it: every commit would wait for ever."""
        if self.needed(len(replicas)) > len(replicas):
            raise ConfigError(
                f"profile {self.name} waits for {self.needed(len(replicas))} replicas, there are {len(replicas)}",
                hint="add replicas (walcast cluster add), or choose a profile that waits for fewer",
            )

    def sentence(self, replicas: Sequence[str]) -> str:
        """What an acknowledged commit survives, in plain words."""
        where = _where(self, replicas)
        match self.level:
            case "off":
                return "A commit is acknowledged before it is on any disk: a crash of the primary loses the last moments."
            case "local":
                return "An acknowledged commit is on the primary's disk only: losing the primary can lose it."
            case _ if not self.waits or not where:
                return (
                    "An acknowledged commit is on the primary's disk. Replicas follow as they can: losing the primary "
                    "loses what they did not have yet. Commits never wait for a replica."
                )
            case "remote_write":
                return (
                    f"An acknowledged commit is on the primary's disk and in the memory of {where}: it survives the loss "
                    "of the primary, but not of both machines' power at once."
                )
            case "on":
                return f"An acknowledged commit is on the disks of the primary and of {where}: it survives the loss of {_survives(self, replicas)}."
            case "remote_apply":
                return (
                    f"An acknowledged commit is on disk and visible at the primary and at {where}: it survives the loss of "
                    f"{_survives(self, replicas)}, and a read there sees it at once."
                )


BUILTIN: Final = {
    profile.name: profile
    for profile in (
        Profile("async", "none", 0, "on"),
        Profile("remote-write", "any", 1, "remote_write"),
        Profile("semi-sync", "any", 1, "on"),
        Profile("sync", "any", 0, "on"),
        Profile("remote-apply", "any", 0, "remote_apply"),
    )
}


def parse(text: str) -> Profile:
    """A profile by name; `first-K`; or `any|first:K|all[:LEVEL]`. Raises ConfigError."""
    wanted = text.strip().lower()
    if wanted in BUILTIN:
        return BUILTIN[wanted]
    first = re.fullmatch(r"first-([1-9][0-9]?)", wanted)
    if first:
        return Profile(wanted, "first", int(first[1]), "on")
    custom = _CUSTOM.match(wanted)
    if custom:
        level = custom[3] or "on"
        if level in ("remote_write", "on", "remote_apply"):
            method: Method = "any" if custom[1] == "any" else "first"
            count = 0 if custom[2] == "all" else int(custom[2])
            return Profile(wanted, method, count, next(known for known in LEVELS if known == level))
    raise ConfigError(
        f"there is no profile {text!r}",
        hint=f"{', '.join(BUILTIN)}, first-K, or your own: any|first:K|all[:remote_write|on|remote_apply], such as "
        "any:1:remote_apply",
    )


@dataclass(frozen=True, slots=True)
class InForce:
    """What a server's own settings ask for: `count` of `names` (`*`: of any) by `method`, as far as `level`."""

    method: Method
    count: int
    names: tuple[str, ...]
    level: Level

    @property
    def waits(self) -> bool:
        """Whether a commit waits for any replica."""
        return self.method != "none" and self.level not in ("off", "local")

    def as_profile(self) -> Profile:
        """The profile that asks for the same, by its usual name if it has one."""
        method: Method = self.method if self.waits else "none"
        count = 0 if self.count >= len(self.names) and "*" not in self.names else self.count
        for known in BUILTIN.values():
            same = known.level == self.level and known.method == method
            if same and (known.count == count or known.needed(len(self.names)) == self.count):
                return known
        if method == "first" and self.level == "on":
            return Profile(f"first-{self.count}", "first", self.count, "on")
        name = self.level if method == "none" else f"{method}:{self.count}:{self.level}"
        return Profile(name, method, self.count, self.level)


def in_force(settings: Mapping[str, str]) -> InForce:
    """Reads synchronous_commit and synchronous_standby_names as the server shows them."""
    level: Level = next((known for known in LEVELS if known == settings.get("synchronous_commit")), "on")
    text = settings.get("synchronous_standby_names", "").strip()
    if not text:
        return InForce("none", 0, (), level)
    found = _NAMES.match(text)
    listed = found["names"] if found else text
    names = tuple(_unquoted(name) for name in re.findall(r'"(?:[^"]|"")*"|[^,\s]+', listed))
    if not found:
        return InForce("first", 1, names, level)
    return InForce(
        "any" if (found["method"] or "").lower() == "any" else "first", int(found["count"]), names, level
    )


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name.lower()


def _where(profile: Profile, replicas: Sequence[str]) -> str:
    needed = profile.needed(len(replicas))
    if not replicas or not needed:
        return ""
    if needed >= len(replicas):
        return _and(replicas)
    if profile.method == "first":
        return (
            f"the first {needed} connected of {', '.join(replicas)}"
            if needed > 1
            else f"the first connected of {', '.join(replicas)}"
        )
    return f"at least {needed} of {', '.join(replicas)}"


def _survives(profile: Profile, replicas: Sequence[str]) -> str:
    """Losing so many machines of the primary and the replicas leaves one that has it."""
    lost = min(profile.needed(len(replicas)), len(replicas))
    return "any one of them" if lost == 1 else f"any {lost} of them"


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _name(name: str) -> str:
    """An element of synchronous_standby_names."""
    return name if _SAFE_NAME.match(name) else '"' + name.replace('"', '""') + '"'
