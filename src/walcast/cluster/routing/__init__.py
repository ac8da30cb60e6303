"""Which server a read goes to, and what a read may count on there.

    token, "any", max_lag ...        Standing of each server (monitor, new connections, checks)
              |                                   |
           choose.py  <------  asks  ------   fleet.py          pure: neither connects to anything
              |
       steps: take, ask, wait, pause, give
              |
    router.py (blocking)   aio.py (asyncio)                     each runs the steps over its pools

A read goes where its token is known to have been replayed; that knowledge comes with every answer of a server, and stays
true for as long as the server lives: replay only goes forward.
"""
