"""What an undisturbed web server answers: one request and the directory in, one response out."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from .message import BytesBody, Request, Response, parse_range

if TYPE_CHECKING:
    from .files import Directory, StoredFile


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
                response = _get(request, directory.open(request.path))
                response.has_body = request.method == "GET"
                return response
            case "PUT" | "DELETE":
                return _change(request, directory)
            case _:
                return Response(HTTPStatus.METHOD_NOT_ALLOWED, {"Allow": "GET, HEAD, PUT, DELETE"})
    except OSError as error:
        return Response(HTTPStatus.INTERNAL_SERVER_ERROR, body=BytesBody(str(error).encode()))


def _get(request: Request, file: StoredFile | None) -> Response:
    if file is None:
        return Response(HTTPStatus.NOT_FOUND)
    headers = {
        "ETag": file.etag,
        "Last-Modified": file.last_modified,
        "Accept-Ranges": "bytes",
        "Content-Type": "application/octet-stream",
    }
    status = _failed_condition(request, file, HTTPStatus.NOT_MODIFIED)
    if status is not None:
        file.close()
        return Response(status, headers)
    byte_range = parse_range(request.headers.get("range"), file.nbytes)
    if byte_range is None:
        return Response(HTTPStatus.OK, headers, file.body(0, file.nbytes))
    start, stop = byte_range
    if start >= stop:
        file.close()
        return Response(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, {"Content-Range": f"bytes */{file.nbytes}"})
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{file.nbytes}"
    return Response(HTTPStatus.PARTIAL_CONTENT, headers, file.body(start, stop))


def _change(request: Request, directory: Directory) -> Response:
    before = directory.open(request.path)
    if before is not None:
        before.close()
    status = _failed_condition(request, before, HTTPStatus.PRECONDITION_FAILED)
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


def _failed_condition(request: Request, file: StoredFile | None, if_unchanged: HTTPStatus) -> HTTPStatus | None:
    """Return the status of the first condition that does not hold; `if_unchanged` is that of If-None-Match."""
    if_match = request.headers.get("if-match")
    if if_match is not None and not _matches(if_match, file):
        return HTTPStatus.PRECONDITION_FAILED
    if_none_match = request.headers.get("if-none-match")
    if if_none_match is not None and _matches(if_none_match, file):
        return if_unchanged
    return None


def _matches(condition: str, file: StoredFile | None) -> bool:
    if file is None:
        return False
    return condition == "*" or file.etag in (tag.strip() for tag in condition.split(","))
