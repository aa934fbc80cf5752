"""The commands, their arguments and what they print; exit code 1 for what went wrong, 2 for wrong arguments."""

from __future__ import annotations

import json
import tempfile
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path  # noqa: TC003  # typer looks at annotations
from typing import TYPE_CHECKING, Annotated, Any

import typer
import zarr
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import zarrs_async
from zarrs_async import _tables
from zarrs_async._explain import PATH
from zarrs_async.cli import bench as benching
from zarrs_async.cli import demo as demonstration
from zarrs_async.cli import doctor as doctoring
from zarrs_async.cli import plot as plotting
from zarrs_async.cli.places import PlaceError, opened, selection
from zarrs_async.exceptions import ZarrsAsyncError

if TYPE_CHECKING:
    from collections.abc import Iterator

# Local variables in a traceback may be credentials.
app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
)

_out = Console()
_err = Console(stderr=True)

Place = Annotated[str, typer.Argument(help="A path, or a URL: s3://, gs://, az://, https://")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Anonymous = Annotated[bool, typer.Option("--anonymous", help="Do not sign requests to a bucket.")]


@contextmanager
def _explained() -> Iterator[None]:
    """Turn what a user can mend into one line and exit code 1."""
    try:
        yield
    except (PlaceError, plotting.PlotError, ZarrsAsyncError, IndexError) as error:
        _err.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error


def _print_json(value: Any) -> None:  # noqa: ANN401  # whatever JSON takes
    typer.echo(json.dumps(value, indent=2))


@app.command()
def doctor(*, as_json: AsJson = False) -> None:
    """Show versions, options and machine, and test reading, writing and cancelling."""
    found = doctoring.findings()
    failed = any(found["tests"].values()) or "options_error" in found
    if as_json:
        _print_json(found)
    else:
        for title in ("versions", "machine", "options"):
            _out.print(_tables.lines(title, list(found.get(title, {}).items())), highlight=False, markup=False)
        if "options_error" in found:
            _out.print(f"  {found['options_error']}", style="red", markup=False, soft_wrap=True)
        _out.print(found["status"], style="green" if found["active"] else "yellow", markup=False, soft_wrap=True)
        for name, error in found["tests"].items():
            told = f"FAILED: {name}: {error}" if error else f"ok: {name}"
            _out.print(told, style="red" if error else "green", markup=False, soft_wrap=True)
    raise typer.Exit(int(failed))


@app.command()
def explain(
    place: Place,
    what: Annotated[str | None, typer.Argument(metavar="SELECTION", help="As in Python: '0:10, 5, ...'")] = None,
    *,
    anonymous: Anonymous = False,
    as_json: AsJson = False,
) -> None:
    """Tell what reading a selection would do, without reading it; of a group, for each of its arrays."""
    # Arrays of a group are opened one by one.
    with _explained(), zarr.config.set({"codec_pipeline.path": PATH}):
        found = opened(place, anonymous=anonymous)
        told = zarrs_async.explain(found, selection(what))
    if isinstance(told, zarrs_async.Explanation):
        _print_json(asdict(told)) if as_json else typer.echo(str(told))
    else:
        _print_json({name: asdict(one) for name, one in told.items()}) if as_json else typer.echo(repr(told))


@app.command()
def bench(  # noqa: PLR0913  # each is an option of the command
    place: Place,
    *,
    mib: Annotated[float, typer.Option(min=0, help="Decoded MiB to read at most, in each round.")] = 256,
    rounds: Annotated[int, typer.Option(min=1, help="How often each read is timed.")] = 5,
    plot: Annotated[Path | None, typer.Option(help="Draw the medians too, into this .png or .svg.")] = None,
    anonymous: Anonymous = False,
    as_json: AsJson = False,
) -> None:
    """Read an array through the installed pipelines, side by side."""
    with _explained():
        if plot is not None:
            plotting.check(plot)
        results = benching.bench(place, mib=mib, rounds=rounds, anonymous=anonymous)
    if as_json:
        _print_json([asdict(result) for result in results])
    else:
        _print_results(results, place)
    if plot is not None:
        with _explained():
            plotting.draw(results, place, plot)


def _print_results(results: list[benching.Result], place: str) -> None:
    table = Table("read", "pipeline", title=place)
    for column in ("seconds", "MiB/s", "× zarrs-async"):
        table.add_column(column, justify="right")
    read = ""
    for result in results:
        if result.read != read:
            table.add_section()
        figures = (result.seconds, result.mib_per_s, result.ratio)
        shown = [
            f"{figure:,.{digits}f}" for figure, digits in zip(figures, (4, 0, 2), strict=True) if figure is not None
        ]
        table.add_row(
            result.read if result.read != read else "", result.pipeline, *(shown or [escape(str(result.error))])
        )
        read = result.read
    _out.print(table)


@app.command()
def demo(
    directory: Annotated[str | None, typer.Argument(help="Where the array stays; by default nowhere.")] = None,
) -> None:
    """Write an array, explain and do a few reads, and draw a plane."""
    with _explained():
        if directory is not None:
            demonstration.demo(directory, _out)
            return
        with tempfile.TemporaryDirectory() as temporary:
            demonstration.demo(temporary, _out)


def _show_versions(asked: bool) -> None:  # noqa: FBT001  # as typer calls it
    if asked:
        typer.echo(f"zarrs-async {zarrs_async.__version__} with zarr {zarr.__version__}")
        raise typer.Exit


@app.callback()
def options(
    *,
    version: Annotated[
        bool, typer.Option("--version", help="Show versions.", is_eager=True, callback=_show_versions)
    ] = False,
) -> None:
    """Read and write Zarr arrays with zarrs-async: look how things stand, and measure."""
