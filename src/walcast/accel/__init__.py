"""Native or Python: chosen here, once, and nowhere else.

`WALCAST_IMPL=native|python` decides; without it the native module is taken when it is there, and its absence is said
once on the `walcast.accel` logger. `NATIVE` is the module (None when Python was chosen), `IMPLEMENTATION` its name.
"""

from __future__ import annotations

import importlib
import logging
import os
from typing import Any, Final, Literal

from walcast.model import ConfigError

__all__ = ["IMPLEMENTATION", "NATIVE"]


def _choose() -> Any:
    asked = os.environ.get("WALCAST_IMPL", "")
    if asked not in ("", "native", "python"):
        raise ConfigError(f"WALCAST_IMPL={asked} is not known", hint="say native or python")
    if asked == "python":
        return None
    try:
        return importlib.import_module("walcast.accel._native")
    except ImportError as error:
        if asked == "native":
            raise ConfigError(
                f"the native module cannot be loaded: {error}",
                hint="install cargo and reinstall walcast, or set WALCAST_IMPL=python",
            ) from error
        logging.getLogger("walcast.accel").warning("native_module_missing", extra={"reason": str(error)})
        return None


NATIVE: Final[Any] = _choose()
IMPLEMENTATION: Final[Literal["native", "python"]] = "python" if NATIVE is None else "native"
