"""A short soak, so that the long one works when it is wanted, and gross leaks are seen at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.long
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="figures are read from Linux's /proc")
def test_a_short_soak_leaves_nothing_held_and_nothing_grown() -> None:
    soak = Path(__file__).with_name("soak.py")
    done = subprocess.run(  # noqa: S603  # our own
        [sys.executable, soak, "--minutes", "0.2", "--round", "2"],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
