"""HTTP/1.1 as text: bytes to a request, a response to the bytes of its head. Nothing here waits or writes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_HEAD_NBYTES = 64 * 1024
REASONS = {status.value: status.phrase for status in HTTPStatus}


class BadRequestError(Exception):
    """The bytes on a connection are not an HTTP/1.1 request that this server understands."""


class Body(Protocol):
    """What an answer carries: readable piece by piece, closed once when it has been sent or given up."""

    @property
    def nbytes(self) -> int:
        """Length in bytes."""

    def read(self, start: int, stop: int) -> bytes:
        """Bytes ``start..stop`` of the body."""

    def close(self) -> None:
        """Free what the body holds."""


class BytesBody:
    """A body that is in memory already."""

    def __init__(self, content: bytes = b"") -> None:
        self._content = content
        self.nbytes = len(content)

    def read(self, start: int, stop: int) -> bytes:
        """Bytes ``start..stop`` of the body."""
        return self._content[start:stop]

    def close(self) -> None:
        """Nothing is held."""


class ExtendedBody:
    """A body with zeros behind it."""

    def __init__(self, body: Body, nbytes: int) -> None:
        self._body = body
        self.nbytes = body.nbytes + nbytes

    def read(self, start: int, stop: int) -> bytes:
        """Bytes ``start..stop`` of the body."""
        end = self._body.nbytes
        return self._body.read(min(start, end), min(stop, end)) + bytes(max(0, stop - max(start, end)))

    def close(self) -> None:
        """Free what the body holds."""
        self._body.close()


class EndlessBody:
    """Zeros that no client waits for the end of."""

    nbytes = 2**62

    def read(self, start: int, stop: int) -> bytes:
        """Bytes ``start..stop`` of the body."""
        return bytes(stop - start)

    def close(self) -> None:
        """Nothing is held."""


@dataclass(slots=True)
class Request:
    """One request; header names are in lower case, the path is decoded and has no leading slash.

    `target` is the path as it arrived over HTTP/1.1, encoded: signatures are over that.
    """

    method: str
    path: str
    query: str
    headers: dict[str, str]
    body: bytes = b""
    target: str = ""

    @property
    def body_nbytes(self) -> int:
        """Announced length of the body in bytes."""
        try:
            return int(self.headers.get("content-length", "0"))
        except ValueError as error:
            raise BadRequestError(str(error)) from error

    @property
    def wants_close(self) -> bool:
        """Whether the client asked for the connection to end after the answer."""
        return self.headers.get("connection", "").lower() == "close"


@dataclass(slots=True)
class Response:
    """One answer; the length of the body is announced even where (as for HEAD) it is not sent.

    A ``Content-Length`` among the headers is announced in place of the body's own.
    """

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: Body = field(default_factory=BytesBody)
    has_body: bool = True
    has_length: bool = True

    def head(self) -> bytes:
        """Status line and headers as they go onto the wire."""
        lines = [f"HTTP/1.1 {self.status} {REASONS.get(self.status, 'Unknown')}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        if self.has_length and self.status != HTTPStatus.NOT_MODIFIED and "Content-Length" not in self.headers:
            lines.append(f"Content-Length: {self.body.nbytes}")
        lines.append("\r\n")
        return "\r\n".join(lines).encode("latin-1")


def parse_head(unread: bytearray) -> Request | None:
    """Take the head of the next request from the front of `unread`.

    Parameters
    ----------
    unread
        What has arrived; shortened by the head when that is complete.

    Returns
    -------
    Request or None
        The request without its body, or None while its head is incomplete.

    Raises
    ------
    BadRequestError
        The head is not HTTP/1.1, too long, or announces a body of unknown length.
    """
    end = unread.find(b"\r\n\r\n")
    if end < 0:
        if len(unread) > MAX_HEAD_NBYTES:
            msg = f"no end of the head within {MAX_HEAD_NBYTES} bytes"
            raise BadRequestError(msg)
        return None
    first, *rest = unread[:end].decode("latin-1").split("\r\n")
    del unread[: end + 4]
    words = first.split(" ")
    if words[2:] != ["HTTP/1.1"] or not words[1].startswith("/"):
        raise BadRequestError(first)
    headers = {}
    for line in rest:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    if "transfer-encoding" in headers:
        msg = "a body needs a Content-Length"
        raise BadRequestError(msg)
    target, _, query = words[1].partition("?")
    return Request(words[0], unquote(target).lstrip("/"), query, headers, target=target)


def parse_range(header: str | None, nbytes: int) -> tuple[int, int] | None:
    """Resolve a Range header against an object of `nbytes` bytes.

    Parameters
    ----------
    header
        ``bytes=a-b``, ``bytes=a-`` or ``bytes=-n``; anything else is ignored, as RFC 9110 allows.
    nbytes
        Length of the object in bytes.

    Returns
    -------
    (int, int) or None
        Half-open byte range, empty where it cannot be satisfied; None for the whole object.
    """
    if header is None or not header.startswith("bytes="):
        return None
    first, dash, last = header.removeprefix("bytes=").partition("-")
    if not dash or not (first or last) or not (first + last).isdigit():
        return None
    if not first:
        return max(0, nbytes - int(last)), nbytes
    stop = min(nbytes, int(last) + 1) if last else nbytes
    return int(first), max(int(first), stop)


def json_response(status: int, content: Mapping[str, Any] | list[Any]) -> Response:
    """Answer in JSON, for the control plane."""
    return Response(status, {"Content-Type": "application/json"}, BytesBody(json.dumps(content).encode()))
