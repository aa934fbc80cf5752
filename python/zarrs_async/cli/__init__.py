"""The command line ``zarrs-async``: a self-test, what a read would do, pipelines side by side, a demonstration."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; without the packages of the extra ``cli``, say how to install them."""
    try:
        from zarrs_async.cli.app import app  # noqa: PLC0415  # they need not be installed
    except ModuleNotFoundError as error:
        if error.name not in {"rich", "typer"}:
            raise
        sys.exit(f"zarrs-async needs {error.name} for its command line: pip install 'zarrs-async[cli]'")
    app()
