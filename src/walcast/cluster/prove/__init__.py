"""A durability profile, proved: writes go on while nodes are stopped, killed, paused and cut off, and every commit is accounted for.

No clock decides anything. A commit that was begun after a fault took effect either comes back while the fault lasts, or the
server shows it waiting; what was acknowledged is looked for at whoever is the primary afterwards.
"""

from walcast.cluster.prove.run import Report, Result, prove

__all__ = ["Report", "Result", "prove"]
