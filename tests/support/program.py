"""Programs of ours as users start them, each a process of its own; those that serve say where on standard output."""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]


class Serving(NamedTuple):
    """A program that serves."""

    process: subprocess.Popen[str]
    url: str
    printed: str


@contextmanager
def serving(program: str, *arguments: object) -> Iterator[Serving]:
    """Start a program of the project and wait for the line that is its URL; end it with the block, by its process."""
    command = [sys.executable, str(ROOT / program), *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:  # noqa: S603 - our own
        try:
            printed = ""
            for line in process.stdout or []:
                printed += line
                if re.fullmatch(r"http://\S+/\n", line):
                    yield Serving(process, line.strip().rstrip("/"), printed)
                    return
            msg = f"{program} ended before it served, with exit status {process.wait()}:\n{printed}"
            raise RuntimeError(msg)
        finally:
            process.terminate()
