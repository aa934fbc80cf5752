"""The public names: all of them are listed in one place, and none slips in or out."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zarrs_async.distributed
import zarrs_async.otel
from zarrs_async import exceptions

if TYPE_CHECKING:
    from types import ModuleType

PAGE = Path(__file__).resolve().parents[1] / "docs/reference/api.md"

PARAMETERS = {
    "explain": "(array, selection=..., *, indexing='basic')",
    "measure": "()",
    "progress": "(**options)",
    "stats": "()",
    "status": "(source=None)",
    "distributed.stats": "(client)",
    "distributed.use": "(client, options=None)",
    "otel.instrument": "(*, tracer_provider=None, meter_provider=None)",
    "otel.uninstrument": "()",
}
"""What a caller may rely on; a change here is one for the changelog."""


def public(module: ModuleType) -> set[str]:
    """Return the names of a module that have no underscore, without modules."""
    return {name for name, value in vars(module).items() if not name.startswith("_") and not inspect.ismodule(value)}


def without_types(function: Any) -> str:
    """Return the signature of a function without its annotations."""
    signature = inspect.signature(function)
    parameters = [parameter.replace(annotation=parameter.empty) for parameter in signature.parameters.values()]
    return str(signature.replace(parameters=parameters, return_annotation=signature.empty)).replace("Ellipsis", "...")


def test_the_package_has_no_other_public_names() -> None:
    assert public(zarrs_async) | {"__version__", "exceptions"} == set(zarrs_async.__all__)
    assert public(exceptions) - {"annotations"} == set(exceptions.__all__)


def test_the_reference_lists_all_of_them() -> None:
    shown = re.findall(r"^::: zarrs_async\.(\S+)$", PAGE.read_text(), re.MULTILINE)
    assert len(shown) == len(set(shown))
    assert set(shown) == {
        *(name for name in zarrs_async.__all__ if name not in {"__version__", "exceptions"}),
        *(f"distributed.{name}" for name in zarrs_async.distributed.__all__),
        *(f"otel.{name}" for name in zarrs_async.otel.__all__),
    }


def test_functions_have_these_parameters() -> None:
    functions = {name: value for name, value in vars(zarrs_async).items() if name in public(zarrs_async)}
    for module in (zarrs_async.distributed, zarrs_async.otel):
        within = module.__name__.removeprefix("zarrs_async.")
        functions |= {f"{within}.{name}": getattr(module, name) for name in module.__all__}
    assert {name: without_types(value) for name, value in functions.items() if inspect.isfunction(value)} == PARAMETERS


def test_the_citation_names_the_version() -> None:
    citation = (PAGE.parents[2] / "CITATION.cff").read_text()
    assert f"\nversion: {zarrs_async.__version__}\n" in citation
