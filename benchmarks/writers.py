"""One-row transactions at a steady rate, from a few connections: `python -m benchmarks.writers DSN RATE WRITERS SECONDS`."""

from __future__ import annotations

import sys
import threading
import time

import psycopg

_INSERT = "insert into ticks values (%s, 1, 1.5, now(), 'tick')"


def main(dsn: str, rate: int, writers: int, seconds: float) -> None:
    """Prints how many it made: all of them, or fewer when the server was too slow for the rate."""
    made = [0] * writers
    begin = time.perf_counter() + 0.1

    def work(mine: int) -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            for number in range(mine, int(rate * seconds), writers):
                wait = begin + number / rate - time.perf_counter()
                if wait > 0:
                    time.sleep(wait)
                elif -wait > seconds:
                    return
                connection.execute(_INSERT, [number], prepare=True)
                made[mine] += 1

    threads = [threading.Thread(target=work, args=(mine,)) for mine in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(sum(made))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
