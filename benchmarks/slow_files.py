"""A directory in which each open and each stat takes a millisecond, as on a network file system.

It is so for processes that begin meanwhile: `slow_files.c` is compiled, and preloaded into them.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.cases import Sample

_COUNTS = struct.Struct("ll")
_SOURCE = Path(__file__).with_suffix(".c")


class SlowFiles:
    """The counts of all processes that were made slow.

    Parameters
    ----------
    counts
        The file that they share.
    """

    def __init__(self, counts: Path) -> None:
        self._counts = counts

    def _read(self) -> tuple[int, int]:
        opens, stats = _COUNTS.unpack(self._counts.read_bytes())
        return opens, stats

    @contextmanager
    def watch(self) -> Iterator[Sample]:
        """Count the opens and stats of a sample."""
        before = self._read()
        sample: Sample = {}
        yield sample
        opens, stats = self._read()
        sample |= {"opens": opens - before[0], "stats": stats - before[1]}


@contextmanager
def slow_files(root: Path) -> Iterator[SlowFiles]:
    """Have processes that begin from now on open and stat slowly below `root`, a path without symbolic links."""
    compiler = shutil.which("cc") or "cc"
    with tempfile.TemporaryDirectory(prefix="zarrs-async-slow-files-") as folder:
        library, counts = Path(folder, "slow_files.so"), Path(folder, "counts")
        subprocess.run((compiler, "-O2", "-shared", "-fPIC", "-o", library, _SOURCE), check=True)
        counts.write_bytes(bytes(_COUNTS.size))
        settings = {"LD_PRELOAD": library, "SLOW_FILES_ROOT": root, "SLOW_FILES_COUNTS": counts}
        before = {name: os.environ.get(name) for name in settings}
        os.environ |= {name: str(value) for name, value in settings.items()}
        try:
            yield SlowFiles(counts)
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
