"""Every fault that `make chaos` knows, once, on one running pipeline; and a short run of random ones.

Death at each named failpoint is in test_engine_faults.py.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from tests.chaos import faults, huge
from tests.chaos.stage import Stage, stage, temporary

pytestmark = [
    pytest.mark.xdist_group("chaos"),
    pytest.mark.asyncio(loop_scope="module"),
]
ONCE = [name for name in faults.FAULTS if not name.startswith("kill at ")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running() -> AsyncIterator[Stage]:
    folder = temporary("tests")
    shutil.rmtree(folder, ignore_errors=True)
    async with stage(folder, 1) as made:
        yield made
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("name", ONCE)
async def test_after_the_fault_every_copy_equals_the_source(running: Stage, name: str) -> None:
    await faults.FAULTS[name].do(running)
    await running.settle(whole=True)


async def test_after_faults_by_chance_every_copy_equals_the_source(running: Stage) -> None:
    kills = running.kills
    for _ in range(6):
        await faults.choose(running, ("kill",)).do(running)
        await running.settle()
    assert running.kills >= kills + 6
    assert running.handled.calls
    assert running.writer.transactions


@pytest.mark.asyncio(loop_scope="function")
async def test_a_huge_transaction_killed_while_it_comes_and_while_it_is_applied() -> None:
    """`make chaos HUGE=1` is the same with ten million rows."""
    folder = temporary("huge-test")
    shutil.rmtree(folder, ignore_errors=True)
    done = await huge.play(folder, 1, 150_000)
    assert done["kills"] == 3
    shutil.rmtree(folder, ignore_errors=True)
