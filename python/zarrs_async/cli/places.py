"""What the command line is given: a place, which is opened, and a selection, which is read from text."""

from __future__ import annotations

import operator
import re
from typing import Any

import zarr
from zarr.storage import LocalStore, ObjectStore

from zarrs_async._explain import PATH

Selection = tuple[Any, ...]


class PlaceError(Exception):
    """A place that cannot be opened, or a selection that is none; the message is for the user."""


def opened(place: str, *, anonymous: bool = False, pipeline: str = PATH) -> zarr.Array[Any] | zarr.Group:
    """Open an array or a group for reading.

    Parameters
    ----------
    place
        A path, or a URL that obstore takes: ``s3://``, ``gs://``, ``az://``, ``https://`` and so on.
    anonymous
        Whether requests to a bucket are not signed.
    pipeline
        What reads its chunks.

    Raises
    ------
    PlaceError
        When there is nothing, or nothing that zarr can read.
    """
    try:
        with zarr.config.set({"codec_pipeline.path": pipeline}):
            return zarr.open(_store(place, anonymous=anonymous), mode="r")
    except FileNotFoundError as error:
        msg = f"there is no zarr array or group at {place}"
        raise PlaceError(msg) from error
    except (OSError, ValueError) as error:
        msg = f"{place} cannot be opened: {error}"
        raise PlaceError(msg) from error


def array_of(place: str, *, anonymous: bool = False, pipeline: str = PATH) -> zarr.Array[Any]:
    """Open an array; see `opened`.

    Raises
    ------
    PlaceError
        For a group too, with the names of its arrays.
    """
    found = opened(place, anonymous=anonymous, pipeline=pipeline)
    if isinstance(found, zarr.Group):
        names = ", ".join(sorted(found.array_keys())) or "none"
        msg = f"{place} is a group: give one of its arrays ({names})"
        raise PlaceError(msg)
    return found


def selection(text: str | None) -> Selection:
    """Read a selection as it stands between brackets in Python, as ``0:10, 5, ...``; all where nothing is given.

    Raises
    ------
    PlaceError
        For anything but integers, slices and an ellipsis.
    """
    return (...,) if text is None else tuple(_index(part.strip()) for part in text.strip("[] ").split(","))


def _index(part: str) -> Any:  # noqa: ANN401  # as above
    if part == "...":
        return ...
    if re.fullmatch(r"[+-]?\d+", part):
        return operator.index(int(part))
    if re.fullmatch(r"([+-]?\d+)?(\s*:\s*([+-]?\d+)?){1,2}", part):
        return slice(*(int(bound) if bound.strip() else None for bound in part.split(":")))
    msg = f"{part!r} is no selection: give integers, slices and an ellipsis, as in '0:10, 5, ...'"
    raise PlaceError(msg)


def _store(place: str, *, anonymous: bool) -> Any:  # noqa: ANN401  # a store of zarr's
    if "://" not in place:
        return LocalStore(place, read_only=True)
    try:
        from obstore.store import from_url  # noqa: PLC0415  # it need not be installed
    except ModuleNotFoundError as error:
        msg = f"{place} is a URL: pip install obstore"
        raise PlaceError(msg) from error
    bucket: Any = {"skip_signature": True} if anonymous else {}
    # Without TLS only where the URL says so itself.
    client: Any = {"client_options": {"allow_http": True}} if place.startswith("http://") else {}
    try:
        return ObjectStore(from_url(place, **bucket, **client), read_only=True)
    except Exception as error:  # obstore has classes of its own
        msg = f"{place} cannot be opened: {error}"
        raise PlaceError(msg) from error
