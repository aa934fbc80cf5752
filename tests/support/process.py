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


@contextmanager
def started(script: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Run a script that has `HEAD` before it and finds this package; it ends with the block."""
    command = [sys.executable, "-c", HEAD + script, *map(str, arguments)]
    # Modules are looked for in the current directory first.
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=TESTS) as process:  # noqa: S603 - our own
        try:
            yield process
        finally:
            process.kill()
