"""The process that writes: `python -m walcast.app.demo.shop`, until SIGTERM."""

from __future__ import annotations

import asyncio
import os
import signal

from walcast.app.demo.workload import DSN_VARIABLE, Workload


async def main() -> None:
    workload = Workload(os.environ[DSN_VARIABLE])
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, workload.stopping.set)
    await workload.run()


if __name__ == "__main__":
    asyncio.run(main())
