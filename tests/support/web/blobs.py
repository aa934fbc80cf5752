"""Objects in memory: a bucket of them, all their versions, and pages of their names."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import TYPE_CHECKING, NamedTuple
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

from .message import BytesBody, Request, Response

if TYPE_CHECKING:
    from collections.abc import Iterable

generations = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Blob:
    """One version of one object.

    `headers` are what it is answered with besides those of every answer; `generation` is different for each version
    of each object.
    """

    content: bytes
    etag: str
    generation: int
    headers: dict[str, str] = field(default_factory=dict)
    last_modified: str = field(default_factory=lambda: formatdate(time.time(), usegmt=True))

    @property
    def nbytes(self) -> int:
        """Length in bytes."""
        return len(self.content)

    def body(self, start: int, stop: int) -> BytesBody:
        """Return the byte range ``start..stop``."""
        return BytesBody(self.content[start:stop])

    def close(self) -> None:
        """Nothing is held."""


@dataclass(slots=True)
class Upload:
    """An object that arrives in parts, by the part's name."""

    headers: dict[str, str]
    parts: dict[str, bytes] = field(default_factory=dict)


class Bucket:
    """Objects by name, and uploads that are under way."""

    def __init__(self) -> None:
        self.blobs: dict[str, Blob] = {}
        self.uploads: dict[str, Upload] = {}
        self._versions: dict[tuple[str, int], Blob] = {}

    def put(self, name: str, blob: Blob) -> None:
        """Store a version, which is the current one from now on."""
        self.blobs[name] = blob
        self._versions[name, blob.generation] = blob

    def version(self, name: str, generation: int) -> Blob | None:
        """Return a version, whether or not it is the current one."""
        return self._versions.get((name, generation))


class Call(NamedTuple):
    """A request that is allowed, and what it is about: an object, or the bucket where the name is empty."""

    request: Request
    bucket: Bucket
    name: str
    query: dict[str, str]


class Page(NamedTuple):
    """A part of a listing; `marker` begins the next one, and is empty where there is none."""

    names: list[str]
    prefixes: list[str]
    marker: str


def page(names: Iterable[str], query: dict[str, str], *, marker: str, most: int) -> Page:
    """List names in order.

    Parameters
    ----------
    names
        All that may be listed.
    query
        With ``prefix`` and ``delimiter``, both optional.
    marker
        Where the page before ended; empty for the first one.
    most
        How many names and prefixes to list.
    """
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    entries: dict[str, bool] = {}
    for name in sorted(names):
        if name.startswith(prefix):
            directory, found, _ = name[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
            entry = f"{prefix}{directory}{delimiter}" if found else name
            if entry > marker:
                entries[entry] = bool(found)
    listed = dict(itertools.islice(entries.items(), most))
    is_last = len(listed) == len(entries)
    return Page(
        [entry for entry, is_prefix in listed.items() if not is_prefix],
        [entry for entry, is_prefix in listed.items() if is_prefix],
        "" if is_last else next(reversed(listed)),
    )


def xml(tag: str, *content: str) -> str:
    """Write an element whose content is XML already."""
    return f"<{tag}>{''.join(content)}</{tag}>"


def text(tag: str, content: object) -> str:
    """Write an element that holds text."""
    return xml(tag, escape(str(content)))


def xml_response(status: int, document: str) -> Response:
    """Answer with a document."""
    return Response(status, {"Content-Type": "application/xml"}, BytesBody(document.encode()))


def texts(document: bytes, tag: str) -> list[str]:
    """Return what the elements of that name hold."""
    return [element.text or "" for element in ET.fromstring(document).iter(tag)]  # noqa: S314 - our own clients
