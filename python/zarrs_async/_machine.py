"""What the machine allows this process: asked once, as the files that say so take long to find and to read."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from zarrs_async import _rust

_MOST_MEMORY = 1 << 30


@cache
def cpus() -> int:
    """Give the CPUs that this process may use."""
    return _rust.cpus()


@cache
def automatic_memory_bytes() -> int:
    """Give a quarter of the memory that this process may use, at most 1 GiB."""
    return min(usable_memory() // 4, _MOST_MEMORY)


def usable_memory() -> int:
    """Bytes of memory that the machine has, or the control group allows, whichever is less."""
    # Windows does not say: there it is as much as makes no difference.
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 4 * _MOST_MEMORY
    amounts = [physical]
    for path in _cgroup_limits():
        try:
            amounts.append(int(path.read_text(encoding="ascii")))
        except (OSError, ValueError):
            # No such file, or the word "max".
            continue
    return min(amount for amount in amounts if amount > 0)


def _cgroup_limits() -> list[Path]:
    """Files that may hold a limit: of this control group and of each above it, versions 2 and 1."""
    root = Path("/sys/fs/cgroup")
    files = [root / "memory.max", root / "memory/memory.limit_in_bytes"]
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()
    except OSError:
        return files
    for line in lines:
        _, controllers, group = line.split(":", 2)
        names = Path(group.lstrip("/"))
        for above in (names, *names.parents):
            if controllers == "":
                files.append(root / above / "memory.max")
            elif "memory" in controllers.split(","):
                files.append(root / "memory" / above / "memory.limit_in_bytes")
    return files


def _forget() -> None:
    cpus.cache_clear()
    automatic_memory_bytes.cache_clear()


if hasattr(os, "register_at_fork"):
    # A child may be given CPUs and a control group of its own.
    os.register_at_fork(after_in_child=_forget)
