"""Builds the native module while a wheel (or an editable install) is made.

With `cargo` the wheel carries `walcast/accel/_native.abi3.so` and is tagged abi3; without it, or when
the crate does not build, the wheel is pure Python and says so on standard error. A fallback in silence
would hide broken Rust: `WALCAST_NATIVE=require` turns it into an error, `WALCAST_NATIVE=skip` leaves
the crate out.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

LIBRARY = "lib_native.dylib" if sys.platform == "darwin" else "lib_native.so"
MODULE = "src/walcast/accel/_native.abi3.so"


class NativeBuildHook(BuildHookInterface[Any]):
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        wish = os.environ.get("WALCAST_NATIVE", "auto")
        if wish not in {"auto", "require", "skip"}:
            raise ValueError(f"WALCAST_NATIVE is {wish!r}; hint: use auto, require or skip")
        reason = "WALCAST_NATIVE=skip" if wish == "skip" else self._build()
        if reason is None:
            build_data["pure_python"] = False
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["tag"] = f"cp311-abi3-{platform}"
            build_data["artifacts"].append(MODULE)
            build_data["force_include"][MODULE] = "walcast/accel/_native.abi3.so"
            return
        if wish == "require":
            raise RuntimeError(f"walcast: the native module was not built: {reason}")
        print(f"walcast: pure Python build, several times slower: {reason}", file=sys.stderr)

    def _build(self) -> str | None:
        """Builds and puts the module beside its stub; returns why it could not, or None."""
        cargo = shutil.which("cargo")
        if cargo is None:
            return "no cargo on PATH; hint: install Rust (rustup.rs) and install walcast again"
        native = Path(self.root) / "native"
        command = [cargo, "build", "--release", "--locked", "-p", "walcast-python"]
        print("walcast: building the native module: " + " ".join(command[1:]), file=sys.stderr)
        done = subprocess.run(command, cwd=native, check=False)
        if done.returncode != 0:
            return f"cargo ended with exit code {done.returncode}"
        target = Path(os.environ.get("CARGO_TARGET_DIR", native / "target"))
        destination = Path(self.root) / MODULE
        partial = destination.with_suffix(".partial")
        shutil.copy2(target / "release" / LIBRARY, partial)
        partial.replace(destination)
        return None
