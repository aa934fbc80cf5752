"""What ``bench --plot`` draws: a panel for each kind of read, with a bar for the median of each pipeline."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import PurePath
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from zarrs_async.cli.bench import Result

_OURS, _OTHERS = "#1f6f8b", "#b8bfc4"
_BAR_INCHES = 0.28
_TITLE_INCHES = 0.45


class PlotError(Exception):
    """A picture that cannot be drawn; the message is for the user."""


def check(file: Path) -> None:
    """See whether a picture can be drawn, before anything is measured.

    Raises
    ------
    PlotError
        When matplotlib is not installed, or the file is no PNG or SVG in a directory that exists.
    """
    if find_spec("matplotlib") is None:
        raise PlotError("--plot needs matplotlib: pip install matplotlib")
    if file.suffix.lower() not in {".png", ".svg"}:
        raise PlotError(f"--plot draws PNG or SVG: the name must end in .png or .svg, but is {file.name!r}")
    if not file.absolute().parent.is_dir():
        raise PlotError(f"--plot: there is no directory {file.absolute().parent}")


def draw(results: Sequence[Result], place: str, file: Path) -> None:
    """Draw what was measured of the array at a place into a PNG or SVG file.

    Raises
    ------
    PlotError
        When the file cannot be written.
    """
    import matplotlib as mpl  # noqa: PLC0415  # it need not be installed
    from matplotlib.figure import Figure  # noqa: PLC0415  # as above

    reads: dict[str, list[Result]] = {}
    for result in results:
        reads.setdefault(result.read, []).append(result)
    heights = [_BAR_INCHES * len(panel) + _TITLE_INCHES for panel in reads.values()]
    figure = Figure(figsize=(8, sum(heights) + 2 * _TITLE_INCHES), layout="constrained")
    figure.suptitle(
        f"{_name(place)}\nmedian time, and how many times that of zarrs-async; shorter is better", parse_math=False
    )
    panels = figure.subplots(len(reads), squeeze=False, height_ratios=heights)
    for axes, (read, panel) in zip(panels.flat, reads.items(), strict=True):
        _panel(axes, read, panel)
    try:
        # Words of an SVG stay words, which can be searched.
        with mpl.rc_context({"svg.fonttype": "none"}):
            figure.savefig(file, dpi=150)
    except OSError as error:
        raise PlotError(f"{file} cannot be written: {error}") from error


def _name(place: str) -> str:
    """Give the last part of a path or URL: what else a URL has may be secret."""
    return PurePath(urlsplit(place).path if "://" in place else place).name or "array"


def _panel(axes: Axes, read: str, results: Sequence[Result]) -> None:
    from matplotlib.ticker import EngFormatter  # noqa: PLC0415  # as above

    time = EngFormatter("s", places=1)
    seconds = [result.seconds or 0 for result in results]
    colours = [_OURS if result.pipeline == "zarrs-async" else _OTHERS for result in results]
    bars = axes.barh([result.pipeline for result in results], seconds, color=colours)
    figures = [
        "failed" if result.seconds is None else f"{time(result.seconds)} ({result.ratio:.2f} ×)" for result in results
    ]
    axes.bar_label(bars, figures, padding=4)
    axes.set_xlim(0, max(seconds) * 1.3 or 1)  # with room for the figures
    axes.invert_yaxis()
    axes.set_title(read, loc="left", fontsize="medium")
    axes.xaxis.set_visible(False)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
