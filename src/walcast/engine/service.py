"""What a running pipeline answers on its control socket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from walcast.engine.control import ControlServer
from walcast.engine.status import plain
from walcast.model import ConfigError, Lsn, TableId

if TYPE_CHECKING:
    from walcast.engine.pipeline import Pipeline


def register(control: ControlServer, pipeline: Pipeline) -> None:
    """Registers status, wait, reload, resync, pause, resume, stop, poke, trail, query, dead, dead_retry and dead_drop."""

    async def status(params: dict[str, Any]) -> Any:
        fresh = params.get("fresh", True)
        return (await pipeline.observe() if fresh else pipeline.status()).as_dict()

    async def wait(params: dict[str, Any]) -> Any:
        await pipeline.wait_for(_lsn(params), params.get("sink"), params.get("timeout"))
        return True

    async def reload(params: dict[str, Any]) -> Any:
        await pipeline.reload()
        return True

    async def resync(params: dict[str, Any]) -> Any:
        tables = params.get("tables")
        await pipeline.resync(
            params["sink"], None if tables is None else [TableId(*table) for table in tables]
        )
        return True

    async def pause(params: dict[str, Any]) -> Any:
        await pipeline.pause(params["sink"])
        return True

    async def resume(params: dict[str, Any]) -> Any:
        await pipeline.resume(params["sink"])
        return True

    async def trail(params: dict[str, Any]) -> Any:
        return plain(pipeline.trail(int(params.get("limit", 50))))

    async def stop(params: dict[str, Any]) -> Any:
        pipeline.stop()
        return True

    async def poke(params: dict[str, Any]) -> Any:
        pipeline.source.poke()
        return True

    async def query(params: dict[str, Any]) -> Any:
        return await pipeline.query(params["sink"], *params.get("args", []))

    async def dead(params: dict[str, Any]) -> Any:
        return [letter.as_json() for letter in pipeline.dead_letters(params["sink"])]

    async def dead_retry(params: dict[str, Any]) -> Any:
        return await pipeline.retry_dead(params["sink"], params.get("numbers"))

    async def dead_drop(params: dict[str, Any]) -> Any:
        return await pipeline.drop_dead(params["sink"], params.get("numbers"))

    handlers = (
        status,
        wait,
        reload,
        resync,
        pause,
        resume,
        stop,
        poke,
        trail,
        query,
        dead,
        dead_retry,
        dead_drop,
    )
    for handler in handlers:
        control.register(handler.__name__, handler)


def _lsn(params: dict[str, Any]) -> Lsn:
    try:
        return Lsn.parse(str(params.get("lsn", "")))
    except ValueError as error:
        raise ConfigError(str(error), hint="take one with `walcast token`") from None
