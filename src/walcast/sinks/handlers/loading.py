"""Handlers by name: `module:attribute` from a configuration file."""

from __future__ import annotations

import difflib
import importlib
import os
import sys

from walcast.model import ConfigError
from walcast.sinks.handlers.registry import Handlers


def load(target: str | Handlers) -> Handlers:
    """The handlers that `target` names; a plain function counts as one for everything. Raises ConfigError.

    Modules are looked for in the working directory, too.
    """
    found = target if isinstance(target, Handlers) else _named(target)
    if not len(found):
        raise ConfigError(
            f"{target if isinstance(target, str) else 'handlers'} has no handlers",
            hint="register one: @handlers.on('public.users')",
        )
    return found


def _named(target: str) -> Handlers:
    module_name, colon, attribute = target.partition(":")
    if not (module_name and colon and attribute):
        raise ConfigError(
            f"{target!r} does not name handlers", hint="write module:attribute, such as app.changes:handlers"
        )
    found: object = _module(target, module_name)
    for name in attribute.split("."):
        if not hasattr(found, name):
            near = difflib.get_close_matches(name, dir(found), n=1)
            raise ConfigError(
                f"{target}: {module_name} has no attribute {name!r}",
                hint=f"did you mean {near[0]!r}?" if near else "write module:attribute",
            )
        found = getattr(found, name)
    if isinstance(found, Handlers):
        return found
    if callable(found) and not isinstance(found, type):
        handlers = Handlers()
        handlers.on()(found)
        return handlers
    raise ConfigError(
        f"{target} is a {type(found).__name__}, not Handlers",
        hint="handlers = walcast.Handlers(), then @handlers.on('public.users')",
    )


def _module(target: str, name: str) -> object:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            raise ConfigError(
                f"{target}: there is no module {error.name!r}",
                hint=f"run from its folder (now {os.getcwd()}), or put it on PYTHONPATH",
            ) from error
        raise ConfigError(f"{target}: {name} imports {error.name!r}, which is not installed") from error
    except Exception as error:
        raise ConfigError(f"{target}: importing {name} failed: {type(error).__name__}: {error}") from error
