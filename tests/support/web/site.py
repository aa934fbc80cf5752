"""What an undisturbed web server answers: one request and the directory in, one response out."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol

from .conditions import Tagged, failed_condition
from .message import BytesBody, Request, Response, parse_range

if TYPE_CHECKING:
    from .files import Directory
    from .message import Body


class Stored(Tagged, Protocol):
    """One version of one object; whoever looked it up closes it or hands it to a body."""

    @property
    def nbytes(self) -> int:
        """Length in bytes."""

    def body(self, start: int, stop: int) -> Body:
        """Return the byte range ``start..stop``, which closes the object in place of this one."""

    def close(self) -> None:
        """Free what the object holds."""


def answer(request: Request, directory: Directory) -> Response:
    """Answer GET, HEAD, PUT and DELETE with ranges and conditions (RFC 9110).

    Parameters
    ----------
    request
        A request that is complete, its body included.
    directory
        What is served; changed by PUT and DELETE.
    """
    try:
        match request.method:
            case "GET" | "HEAD":
                return get(request, directory.open(request.path))
            case "PUT" | "DELETE":
                return _change(request, directory)
            case _:
                return Response(HTTPStatus.METHOD_NOT_ALLOWED, {"Allow": "GET, HEAD, PUT, DELETE"})
    except OSError as error:
        return Response(HTTPStatus.INTERNAL_SERVER_ERROR, body=BytesBody(str(error).encode()))


def get(request: Request, stored: Stored | None) -> Response:
    """Answer GET or HEAD with the object, or the range of it, that its conditions allow."""
    response = _get(request, stored)
    response.has_body = request.method == "GET"
    return response


def _get(request: Request, stored: Stored | None) -> Response:
    if stored is None:
        return Response(HTTPStatus.NOT_FOUND)
    headers = {
        "ETag": stored.etag,
        "Last-Modified": stored.last_modified,
        "Accept-Ranges": "bytes",
        "Content-Type": "application/octet-stream",
    }
    status = failed_condition(request.headers, stored, HTTPStatus.NOT_MODIFIED)
    if status is not None:
        stored.close()
        return Response(status, headers)
    byte_range = parse_range(request.headers.get("range"), stored.nbytes)
    if byte_range is None:
        return Response(HTTPStatus.OK, headers, stored.body(0, stored.nbytes))
    start, stop = byte_range
    if start >= stop:
        stored.close()
        return Response(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, {"Content-Range": f"bytes */{stored.nbytes}"})
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{stored.nbytes}"
    return Response(HTTPStatus.PARTIAL_CONTENT, headers, stored.body(start, stop))


def _change(request: Request, directory: Directory) -> Response:
    before = directory.open(request.path)
    if before is not None:
        before.close()
    status = failed_condition(request.headers, before)
    if status is not None:
        return Response(status)
    if request.method == "DELETE":
        if before is None:
            return Response(HTTPStatus.NOT_FOUND)
        directory.delete(request.path)
        return Response(HTTPStatus.NO_CONTENT)
    try:
        directory.put(request.path, request.body)
    except ValueError:
        return Response(HTTPStatus.FORBIDDEN)
    after = directory.open(request.path)
    if after is None:
        return Response(HTTPStatus.CONFLICT)
    after.close()
    return Response(HTTPStatus.CREATED if before is None else HTTPStatus.OK, {"ETag": after.etag})
