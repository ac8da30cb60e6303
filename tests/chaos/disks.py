"""Small file systems that can really be full, and a clock that can be set."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Self

from walcast.postgres.local import Binaries

_CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>

/* The file's first eight bytes are the seconds to add to the time of day; monotonic clocks are left alone. */
static volatile long long *offset;

__attribute__((constructor)) static void open_clock(void) {
    const char *path = getenv("CHAOS_CLOCK");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *at = fd < 0 ? MAP_FAILED : mmap(NULL, 8, PROT_READ, MAP_SHARED, fd, 0);
    if (at != MAP_FAILED) offset = at;
}

int clock_gettime(clockid_t id, struct timespec *at) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int done = real(id, at);
    if (offset && done == 0 && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) at->tv_sec += *offset;
    return done;
}

int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    struct timespec now;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &now)) return -1;
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
"""


class SmallDisk:
    """A folder of so many bytes: a tmpfs of its own where we may mount one (as root), else an ordinary folder, which
    `fill` then cannot fill (`real` says which). None: an ordinary one."""

    def __init__(self, folder: Path, size: int | None) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0777", "walcast-chaos", str(folder)]
        self.real = (
            size is not None
            and os.geteuid() == 0
            and subprocess.run(mount, capture_output=True, check=False).returncode == 0
        )

    def fill(self) -> None:
        """Takes every byte that is left."""
        with (self.folder / "filler").open("wb", buffering=0) as filler:
            for size in (1 << 20, 4096):
                try:
                    while self.real:
                        filler.write(bytes(size))
                except OSError:
                    continue

    def free(self) -> None:
        (self.folder / "filler").unlink(missing_ok=True)

    def close(self) -> None:
        if self.real:
            subprocess.run(["umount", "-l", str(self.folder)], check=False)
            self.real = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Clock:
    """A library to load before others (LD_PRELOAD) that adds seconds to the time of day, of programs that ask libc."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)
        source, self._library, self._file = folder / "clock.c", folder / "clock.so", folder / "offset"
        source.write_text(_CLOCK)
        command = ["cc", "-shared", "-fPIC", "-O1", "-o", str(self._library), str(source), "-ldl"]
        subprocess.run(command, check=True, capture_output=True)
        self.set(0)
        self._file.chmod(0o644)
        self.environment = {"LD_PRELOAD": str(self._library), "CHAOS_CLOCK": str(self._file)}

    def set(self, seconds: int) -> None:
        """Jumps to so many seconds from the right time, for all programs that have the clock."""
        with self._file.open("r+b" if self._file.exists() else "wb") as file:
            file.write(seconds.to_bytes(8, "little", signed=True))

    def programs(self, real: Binaries, folder: Path) -> Binaries:
        """The same server programs, going by this clock."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        folder.chmod(0o755)
        for program in real.bindir.iterdir():
            (folder / program.name).symlink_to(program)
        (folder / "postgres").unlink()
        given = " ".join(f"{name}='{value}'" for name, value in self.environment.items())
        (folder / "postgres").write_text(f'#!/bin/sh\n{given} exec "{real.bindir / "postgres"}" "$@"\n')
        (folder / "postgres").chmod(0o755)
        return Binaries(folder, real.version)
