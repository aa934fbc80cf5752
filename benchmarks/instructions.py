"""Instructions of fixed cases, set against those that are kept: what became slower shows where times are noise.

``python benchmarks/instructions.py BINARY [--accept]``, by ``make instructions``. Valgrind's cachegrind counts the
instructions of all threads. A case is done once and then several times, each in a process of its own; the difference
has no start and no preparation in it. Kept counts bind only the compiler and the processor that they were taken with.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import which

_KEPT = Path(__file__).with_suffix(".json")
_TIMES = 5
_TRIES = 4
"""Threads meet in any order, which only adds instructions: 0.03 in most cases, 0.12 at worst. The least counts."""
_TOLERANCE = 0.05
"""By so much may a count grow."""


def main() -> int:
    """Count, and compare or keep; print a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("binary", type=Path, help="the engine's example `instructions`, built")
    parser.add_argument("--accept", action="store_true", help="keep these counts")
    options = parser.parse_args()
    if which("valgrind") is None:
        print("valgrind, which counts the instructions, is not installed: nothing was compared", file=sys.stderr)
        return 1
    stored = json.loads(_KEPT.read_text(encoding="utf-8"))
    kept = {} if options.accept else stored["instructions"]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        names = _run(options.binary).splitlines()
        counted = pool.map(lambda name: _least(options.binary, name, kept.get(name, 0)), names)
        counts = dict(zip(names, counted, strict=True))
    conditions = {"compiler": _run("rustc", "--version").strip(), "processor": platform.machine()}
    if options.accept:
        _KEPT.write_text(json.dumps({**conditions, "instructions": counts}, indent=1) + "\n", encoding="utf-8")
        print(f"{len(counts)} counts in {_KEPT}")
        return 0
    return compare(counts, kept, binding=all(stored[name] == conditions[name] for name in conditions))


def compare(counts: dict[str, int], kept: dict[str, int], *, binding: bool) -> int:
    """Print how the counts have changed; return 1 if one has grown, or is not kept, where those kept are binding."""
    grown = 0
    for name in {**kept, **counts}:
        count, before = counts.get(name), kept.get(name)
        if count is None or before is None:
            grown += 1
            print(f"{name:32} {'is no case any more' if count is None else 'is a new case'}")
            continue
        change = count / before - 1
        grown += change > _TOLERANCE
        verdict = "  MORE" if change > _TOLERANCE else "  fewer" if change < -_TOLERANCE else ""
        print(f"{name:32} {count:12,} instructions {change:+7.1%}{verdict}")
    if not binding:
        print("The kept counts are of another compiler or processor: they bind nobody here.")
    elif grown:
        print(f"{grown} of {len(counts)} cases: if that is as it should be, make instructions ARGS=--accept")
    return int(binding and grown > 0)


def _least(binary: Path, name: str, kept: int) -> int:
    """Count until it is no more than was kept, or all tries are over."""
    least = _count(binary, name)
    for _ in range(_TRIES - 1):
        if least <= kept * (1 + _TOLERANCE):
            break
        least = min(least, _count(binary, name))
    return least


def _count(binary: Path, name: str) -> int:
    """Return the instructions of doing a case once, among several times."""
    once, often = (_instructions(binary, name, times) for times in (1, 1 + _TIMES))
    return (often - once) // _TIMES


def _instructions(binary: Path, name: str, times: int) -> int:
    tool = ("valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null")
    told = _run(*tool, binary, name, str(times), stream="stderr")
    refs = re.search(r"I\s+refs:\s+([\d,]+)", told)
    assert refs is not None, told
    return int(refs[1].replace(",", ""))


def _run(*command: str | Path, stream: str = "stdout") -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}:\n{done.stdout}{done.stderr}")
    told: str = getattr(done, stream)
    return told


if __name__ == "__main__":
    sys.exit(main())
