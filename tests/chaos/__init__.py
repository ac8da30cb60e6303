"""Walcast under random faults: `make chaos`, or `python -m tests.chaos --seconds 120 --seed 7`.

    Writer --> source --TcpProxy--> `walcast run` (killed, starved, cut off) --TcpProxy--> PostgreSQL copy
                                          |----> DuckDB, JSON Lines (on a small file system), handlers

`stage.py` holds the servers, proxies and the pipeline's process; `writer.py` the load; `faults.py` what goes wrong;
`copies.py` whether every copy equals the source, row by row (and `stage.py` asks `walcast verify`); `forge.py` starts
pipelines quickly; `huge.py` is one transaction of millions of rows.
"""
