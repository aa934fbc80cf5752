"""zarr's own tests, with our pipeline in place of its default.

``python tests/zarr_suite.py`` takes them from zarr's source distribution; arguments are pytest's, paths those of the
distribution, and ``--quick`` stands for the most telling part. ``zarr_suite.toml`` lists the tests that look at what
another pipeline may do otherwise, each with its reason. Any other must pass; one of the list that passes is named.

As a plugin of pytest this file marks those of the list.
"""

from __future__ import annotations

import fnmatch
import os
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from oracle import OURS
from packaging.specifiers import SpecifierSet

from support.sdists import sdist

if TYPE_CHECKING:
    from collections.abc import Sequence

LISTS: dict[str, Any] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text())


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests whose failure is known."""
    of_this_zarr = [known for known in LISTS["known"] if version("zarr") in SpecifierSet(known.get("zarr", ""))]
    for item in items:
        for known in of_this_zarr:
            if any(fnmatch.fnmatchcase(item.nodeid, f"tests/{test}") for test in known["tests"]):
                item.add_marker(pytest.mark.xfail(reason=known["reason"], strict=False))


def main(arguments: Sequence[str]) -> int:
    """Run zarr's tests, all of them unless some are named."""
    suite = sdist("zarr")
    names = [argument for argument in arguments if argument != "--quick"]
    quick = [f"tests/{test}" for test in LISTS["quick"]] if "--quick" in arguments else []
    missing = [test for test in quick if not (suite / test).exists()]
    # Only an older zarr, which is what the oldest Python has, may lack some of them.
    if missing and sys.version_info >= (3, 12):
        sys.exit(f"zarr's tests are not where zarr_suite.toml has them: {', '.join(missing)}")
    quick = [test for test in quick if test not in missing]
    if not quick and not any(name.startswith("tests/") for name in names):
        quick = ["tests"]
    options = [
        # Its own ask for plugins of pytest that we do not install.
        *("-o", "addopts=", "-p", "zarr_suite", "-p", "no:cacheprovider", "-rfEX", "--tb=short"),
        *("--numprocesses", "auto", "--maxprocesses", "4", "--dist", "worksteal", "-q"),
        *(f"--ignore=tests/{left_out}" for left_out in LISTS["left_out"]),
    ]
    environment = {
        **os.environ,
        "HYPOTHESIS_PROFILE": "ci",
        "PYTHONPATH": str(Path(__file__).parent),
        "ZARR_CODEC_PIPELINE__PATH": OURS,
    }
    command = [sys.executable, "-m", "pytest", *options, *names, *quick]
    return subprocess.run(command, cwd=suite, env=environment, check=False).returncode  # noqa: S603  # zarr's tests


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
