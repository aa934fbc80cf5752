"""What a run leaves behind: the machine, the arguments, and every sample of every cell."""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

Cell = dict[str, Any]
"""A cell in its JSON form, from which tables and pictures are made."""

_PACKAGES = ("zarrs-async", "zarr", "zarrs", "tensorstore", "obstore", "s3fs", "numpy", "numcodecs")


def machine() -> dict[str, Any]:
    """Return what a reader must know about this machine to compare the figures."""
    return {
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_before": os.getloadavg(),
        "python": sys.version.split()[0],
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def write_json(path: Path, results: dict[str, Any]) -> None:
    """Store the results: the machine, the arguments, and every sample of every cell."""
    path.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def heading(results: dict[str, Any]) -> str:
    """Return what stands above the tables: when, where, with what."""
    host = results["machine"]
    packages = ", ".join(f"{name} {at}" for name, at in host["packages"].items() if at)
    return (
        f"# Benchmarks, {host['date']}\n\n"
        f"{host['processor']}, {host['cores']} cores, {host['system']}, "
        f"load {host['load_before'][0]:.1f} before; Python {host['python']}, {packages}. "
        f"Medians of up to {results['arguments']['rounds']} rounds.\n"
    )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    """Return the processor's name, which `platform` does not know on Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())
