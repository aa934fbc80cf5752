"""Source distributions of what is installed: they hold tests that wheels leave out."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path

LOCK = Path(__file__).parents[2] / "requirements" / "test.txt"


def sdist(name: str) -> Path:
    """Give the source distribution of what is installed of a package; it is downloaded once for an environment."""
    folder = f"{name}-{version(name)}"
    place = Path(sys.prefix, "sdists", folder)
    if not place.exists():
        place.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent) as made:
            locked = Path(made, "locked.txt")
            locked.write_text(_locked(name))
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
            what = ["--no-deps", "--no-binary", name, "--require-hashes", "--requirement", str(locked), "--dest", made]
            subprocess.run([*pip, *what], check=True)  # noqa: S603  # arguments of our own
            [archive] = Path(made).glob("*.tar.gz")
            with tarfile.open(archive) as packed:
                packed.extractall(made, filter="data")
            Path(made, folder).rename(place)
    return place


def _locked(name: str) -> str:
    """Give what the lock says of a package in the version that is installed, hashes included."""
    # Each requirement is followed by its hashes, one to a line that ends in a backslash but for the last.
    requirements = LOCK.read_text().replace("\\\n", " ").splitlines()
    return next(line for line in requirements if line.startswith(f"{name}=={version(name)} "))
