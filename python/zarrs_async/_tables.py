"""Names and values as a table: lines for a terminal, HTML for a notebook."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")


def lines(title: str, rows: Sequence[tuple[str, Any]]) -> str:
    """Give a title and one line for each row."""
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join([title, *(f"  {name:<{width}}  {shown(value)}" for name, value in rows)])


def html(title: str, rows: Sequence[tuple[str, Any]]) -> str:
    """Give the same as an HTML table."""
    from html import escape  # noqa: PLC0415  # needed in notebooks only

    body = "".join(
        f"<tr><th style='text-align:left'>{escape(name)}</th>"
        f"<td style='text-align:left'>{escape(shown(value))}</td></tr>"
        for name, value in rows
    )
    return f"<table><caption>{escape(title)}</caption><tbody>{body}</tbody></table>"


def shown(value: object) -> str:
    """Show a value: numbers with separators."""
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def size(nbytes: int) -> str:
    """Show bytes in the unit that keeps the number below 1024."""
    amount, unit = float(nbytes), 0
    while amount >= 1024 and unit < len(_UNITS) - 1:  # noqa: PLR2004  # as binary units are defined
        amount, unit = amount / 1024, unit + 1
    return f"{nbytes:,} bytes" if unit == 0 else f"{amount:.1f} {_UNITS[unit]}"


def counted(count: int, noun: str) -> str:
    """Give a number and a noun, in the plural where it is not one."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
