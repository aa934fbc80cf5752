"""Scripts in a process of their own, whose engine has done nothing else."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

TESTS = Path(__file__).parents[1]
HEAD = """
import asyncio, sys
import numpy as np, zarr, zarr.api.asynchronous
import zarrs_async
from support.remote import http_store

zarr.config.set({"codec_pipeline.path": "zarrs_async.ZarrsAsyncCodecPipeline", "codec_pipeline.strict": True})
"""


def finished(script: str, *arguments: object, timeout: float = 60.0) -> str:
    """Run a script as `started` does to its end, which must be a good one, and return what it printed.

    Parameters
    ----------
    script
        What comes after `HEAD`.
    *arguments
        Its command line.
    timeout
        Seconds after which it hangs.
    """
    done = subprocess.run(  # noqa: S603 - our own
        _command(script, arguments), capture_output=True, text=True, cwd=TESTS, timeout=timeout, check=False
    )
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


@contextmanager
def started(script: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Run a script that has `HEAD` before it and finds this package; it ends with the block."""
    with subprocess.Popen(  # noqa: S603 - our own
        _command(script, arguments), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=TESTS
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _command(script: str, arguments: tuple[object, ...]) -> list[str]:
    # Modules are looked for in the current directory, `TESTS`, first.
    return [sys.executable, "-c", HEAD + script, *map(str, arguments)]
