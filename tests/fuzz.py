"""Hostile bytes against both decoders: `python -m tests.fuzz --seconds 60 --seed 1`; by the million against the native
one: `--inputs 10000000`.

Frames of a correct stream (and COPY data of a correct snapshot) are damaged in ways that a broken network, server or
attacker might. What must hold: a decoder either shows the batch or raises DecodeFault or DecodeError with an offset
inside the bytes; it never crashes, hangs or takes memory beyond what the input justifies; and both decoders refuse the
same frame at the same byte, and show the same where both show something.
"""

from __future__ import annotations

import argparse
import faulthandler
import math
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from struct import pack
from typing import Any, Final

import pyarrow as pa
from tests.fuzz_corpus import GIVEN_TYPES, KEYS, RELATION, copies, frames

from walcast.decode import NATIVE, TWIN
from walcast.decode.frames import Delivery, Implementation
from walcast.model import DecodeError, ValueRangeError
from walcast.testing.batches import batch_of

NATIVE_FOLDER: Final = Path(__file__).parents[1] / "native"
_SLOW = 5.0
"""Seconds that no input may take."""
_MOST_MEMORY = 512 << 20
"""Bytes that the process may grow by."""
_EXTREMES = (
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFFF,
    0x3FFFFFFF,
    0x40000000,
)


@dataclass
class Report:
    seed: int
    inputs: int = 0
    refused: int = 0
    seconds: float = 0.0
    findings: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        rate = self.inputs / self.seconds if self.seconds else 0.0
        head = (
            f"fuzz: {self.inputs} inputs, {self.refused} refused, {rate:.0f} inputs/s, seed {self.seed}, "
            f"{len(self.findings)} findings"
        )
        return "\n".join([head, *self.findings])


def run(seed: int, *, seconds: float = float("inf"), inputs: int | None = None) -> Report:
    """Tries damaged inputs until the time or their number is up. Each is made from (seed, its number) alone."""
    report = Report(seed)
    implementations = [TWIN] if NATIVE is None else [NATIVE, TWIN]
    started, memory = time.monotonic(), _memory()
    with tempfile.TemporaryDirectory() as spool:
        while time.monotonic() - started < seconds and (inputs is None or report.inputs < inputs):
            draw = random.Random(f"{seed}/{report.inputs}")
            found = (_try_copy if draw.random() < 0.2 else _try_stream)(draw, implementations, spool, report)
            report.findings += [f"input {report.inputs}: {finding}" for finding in found]
            report.inputs += 1
            if _memory() - memory > _MOST_MEMORY:
                report.findings.append(
                    f"input {report.inputs - 1}: the process grew by more than {_MOST_MEMORY} bytes"
                )
                break
    report.seconds = time.monotonic() - started
    return report


def _try_stream(
    draw: random.Random, implementations: list[Implementation], spool: str, report: Report
) -> list[str]:
    damaged = damage_frames(draw, frames(draw))
    sizes = draw.choice(((1 << 30, 1 << 30), (2_000, 500), (1, 1)))
    outcomes, findings = [], []
    for implementation in implementations:
        begun = time.monotonic()
        try:
            outcomes.append(_streamed(implementation, damaged, sizes, spool))
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            findings.append(f"{implementation.name}: {type(error).__name__}: {error}")
        if time.monotonic() - begun > _SLOW:
            findings.append(f"{implementation.name}: took {time.monotonic() - begun:.1f} s")
    report.refused += any(outcome[0] is not None for outcome in outcomes)
    if len(outcomes) == 2 and not findings:
        findings += _disagreements(*outcomes)
    return findings


def _streamed(
    implementation: Implementation, damaged: list[bytes], sizes: tuple[int, int], spool: str
) -> tuple[Any, list[Any]]:
    """(the frame and the byte at which it was refused, or None; what is shown of the batches before)."""
    assembler = implementation.Assembler(4, True, *sizes, spool, 4_096, 1 << 20)
    refused = None
    for number, frame in enumerate(damaged):
        try:
            assembler.feed(frame)
        except implementation.DecodeFault as fault:
            message, offset = fault.args
            # Stream Commit replays frames that came before: the place is in one of those.
            replayed = frame[25:26] == b"c"
            longest = max(map(len, damaged)) if replayed else len(frame)
            if not message or not 0 <= offset <= longest + 25:
                raise AssertionError(f"a fault without a place: {fault.args}") from fault
            refused = (number, None if replayed else offset)
            break
    deliveries = [Delivery(*item) for item in assembler.take(True)]
    whole = sizes[0] == 1 << 30
    return refused, [_shown(implementation, item) for item in deliveries if item.frames is not None and whole]


def _try_copy(
    draw: random.Random, implementations: list[Implementation], spool: str, report: Report
) -> list[str]:
    form, payload = draw.choice(copies())
    damaged = _damage(draw, payload)
    outcomes, findings = [], []
    for implementation in implementations:
        try:
            shown: Any = implementation.snapshot_frames(RELATION, [damaged], form, 7)
            delivery = Delivery("changes", shown, 7, 0, 0, None, None)
            outcomes.append((None, [_shown(implementation, delivery)]))
        except DecodeError as error:
            if error.offset is None or not 0 <= error.offset <= len(damaged):
                findings.append(f"{implementation.name}: a refusal without a place: {error}")
            outcomes.append(("refused", []))
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            findings.append(f"{implementation.name}: {type(error).__name__}: {error}")
    report.refused += any(outcome[0] is not None for outcome in outcomes)
    if len(outcomes) == 2 and not findings:
        findings += _disagreements(*outcomes)
    return findings


def _shown(implementation: Implementation, delivery: Delivery) -> dict[str, Any]:
    """Everything that a batch can be asked for, or the kind of error where its values are broken."""
    found, catalog = delivery.frames, implementation.Catalog(GIVEN_TYPES)
    assert found is not None
    relations = range(len(found.relations()))
    keys = [KEYS for _ in relations]
    shown: dict[str, Any] = {"entries": list(found.entries()), "transactions": found.transactions()}
    shown["json"] = _or_error(lambda: found.json_lines(catalog, keys))
    types = {item[0]: item for item in GIVEN_TYPES}
    batch = batch_of(delivery, catalog, types, {}, 1)
    _or_error(lambda: [repr(change) for change in batch.changes()])
    for number in relations:
        for choices in (("text", "text", "text"), ("decimal", "native", "list")):
            _or_error(lambda number=number, choices=choices: pa.table(found.arrow(number, catalog, *choices)))
        net = found.net(number, KEYS)
        shown[f"net {number}"] = (
            net[:4],
            [
                (
                    group[0],
                    group[1],
                    list(group[2].rows()),
                    _or_error(lambda group=group: b"".join(group[2].copy(KEYS))),
                )
                for group in net[5]
            ],
        )
    return shown


def _or_error(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except (DecodeError, ValueRangeError, ValueError):
        return None


def _disagreements(native: tuple[Any, list[Any]], twin: tuple[Any, list[Any]]) -> list[str]:
    if native[0] != twin[0]:
        return [f"refused at {native[0]} by one and at {twin[0]} by the other"]
    if len(native[1]) != len(twin[1]):
        return [f"{len(native[1])} batches and {len(twin[1])} batches"]
    # Where values are broken, one may stop at what the other can still print.
    return [
        f"different {what}"
        for ours, theirs in zip(native[1], twin[1], strict=True)
        for what in ours
        if ours[what] is not None and theirs[what] is not None and ours[what] != theirs[what]
    ]


def damage_frames(draw: random.Random, correct: list[bytes]) -> list[bytes]:
    """Some frames lost, doubled, swapped or with other bytes."""
    damaged = list(correct)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        at = draw.randrange(len(damaged))
        match draw.randrange(8):
            case 0:
                damaged.insert(at, damaged[draw.randrange(len(damaged))])
            case 1 if len(damaged) > 1:
                del damaged[at]
            case 2:
                other = draw.randrange(len(damaged))
                damaged[at], damaged[other] = damaged[other], damaged[at]
            case _:
                damaged[at] = _damage(draw, damaged[at])
    return damaged


def _damage(draw: random.Random, correct: bytes) -> bytes:
    damaged = bytearray(correct)
    for _ in range(draw.choice((1, 1, 2, 5))):
        at = draw.randrange(len(damaged) + 1)
        match draw.randrange(6):
            case 0:
                del damaged[at:]
            case 1:
                damaged[at:at] = draw.randbytes(draw.randrange(1, 9))
            case 2:
                del damaged[at : at + draw.randrange(1, 5)]
            case 3:
                damaged[at : at + 1] = draw.randbytes(1)
            case 4:
                size = draw.choice((1, 2, 4))
                damaged[at : at + size] = (draw.choice(_EXTREMES) & ((1 << 8 * size) - 1)).to_bytes(size)
            case 5:
                damaged[at : at + 1] = bytes(
                    [(damaged[at] if at < len(damaged) else 0) ^ 1 << draw.randrange(8)]
                )
    return bytes(damaged)


def corpus(seed: int, streams: int = 64) -> bytes:
    """What the native fuzzer (native/core/examples/fuzz.rs) damages: lengths first, then bytes."""
    made = [frames(random.Random(f"{seed}/{number}")) for number in range(streams)]
    words: list[int] = [len(made)]
    for stream in made:
        words += [len(stream), *map(len, stream)]
    snapshots = copies()
    words.append(len(snapshots))
    for form, payload in snapshots:
        words += [form == "binary", len(payload)]
    data = [frame for stream in made for frame in stream] + [payload for _, payload in snapshots]
    return pack(f">{len(words)}I", *words) + b"".join(data)


def native(seed: int, inputs: int, seconds: float, first: int = 0) -> int:
    """Runs the native fuzzer, which needs cargo; its exit code: 0 without findings."""
    with tempfile.NamedTemporaryFile(suffix=".corpus") as file:
        file.write(corpus(seed))
        file.flush()
        build = [
            "cargo",
            "run",
            "--quiet",
            "--release",
            "--locked",
            "-p",
            "walcast-core",
            "--example",
            "fuzz",
        ]
        given = [file.name, str(seed), str(first), str(inputs), str(math.ceil(seconds))]
        return subprocess.run([*build, "--", *given], cwd=NATIVE_FOLDER, check=False).returncode


def _memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> int:
    parser = argparse.ArgumentParser(description="Damaged frames against both decoders.")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--inputs", type=int, default=None, help="so many to the native decoder alone")
    arguments = parser.parse_args()
    faulthandler.enable()
    seed = arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(1 << 31)
    print(f"fuzz: {arguments.seconds:.0f} s, seed {seed}", file=sys.stderr, flush=True)
    if arguments.inputs is not None:
        return native(seed, arguments.inputs, arguments.seconds)
    report = run(seed, seconds=arguments.seconds / 2)
    print(report)
    if native(seed, 1 << 40, arguments.seconds / 2):
        return 1
    return 1 if report.findings else 0


if __name__ == "__main__":
    raise SystemExit(main())
