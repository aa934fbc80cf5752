"""Azure Blob Storage: block blobs with conditions, blocks, listings, copies and batches of deletions.

Requests are signed with the account's shared key. Ranges by suffix are refused.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlsplit

from .blobs import Blob, Bucket, Call, Upload, generations, page, text, texts, xml, xml_response
from .conditions import failed_condition
from .message import BytesBody, Request, Response, parse_head
from .site import get

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .rules import Spoiled

# Those of every emulator of this service.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

CODES = {
    HTTPStatus.NOT_FOUND: "BlobNotFound",
    HTTPStatus.PRECONDITION_FAILED: "ConditionNotMet",
    HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE: "InvalidRange",
}
SIGNED_HEADERS = (
    "content-encoding",
    "content-language",
    "content-length",
    "content-md5",
    "content-type",
    "date",
    "if-modified-since",
    "if-match",
    "if-none-match",
    "if-unmodified-since",
    "range",
)
KEPT_HEADERS = {
    "x-ms-blob-cache-control": "Cache-Control",
    "x-ms-blob-content-disposition": "Content-Disposition",
    "x-ms-blob-content-encoding": "Content-Encoding",
    "x-ms-blob-content-language": "Content-Language",
    "x-ms-blob-content-type": "Content-Type",
}


class Azure:
    """The service, with one account.

    Parameters
    ----------
    containers
        Names of the containers there are.
    answer_part
        Answers a part of a batch: as `answer` would, unless a rule spoils it.
    """

    def __init__(self, containers: Iterable[str], answer_part: Spoiled) -> None:
        self._containers = {name: Bucket() for name in containers}
        self._answer_part = answer_part

    def answer(self, request: Request, path: str) -> Response:
        """Answer a request whose path, account first, is `path`."""
        if "authorization" not in request.headers:
            return error(HTTPStatus.UNAUTHORIZED, "NoAuthenticationInformation")
        if not is_signed(request):
            return error(HTTPStatus.FORBIDDEN, "AuthenticationFailed")
        _, _, inner = path.partition("/")
        name, _, blob = inner.partition("/")
        container = self._containers.get(name)
        if container is None:
            return error(HTTPStatus.NOT_FOUND, "ContainerNotFound")
        query = dict(parse_qsl(request.query, keep_blank_values=True))
        about = query.get("comp", "copy" if "x-ms-copy-source" in request.headers else "blob")
        if (request.method, about) == ("POST", "batch"):
            return self._batch(request)
        operation = OPERATIONS.get((request.method, about))
        if operation is None:
            return error(HTTPStatus.METHOD_NOT_ALLOWED, "UnsupportedHttpVerb")
        return operation(Call(request, container, blob, query))

    def put(self, path: str, content: bytes) -> None:
        """Store a blob, whatever is there."""
        _, name, blob = path.split("/", 2)
        _stored(self._containers[name], blob, content, {})

    def delete(self, path: str) -> None:
        """Remove a blob, if it is there."""
        _, name, blob = path.split("/", 2)
        self._containers[name].blobs.pop(blob, None)

    def _batch(self, request: Request) -> Response:
        """Answer requests that are the parts of one, each signed for itself."""
        boundary = request.headers["content-type"].partition("boundary=")[2]
        root = request.target[: request.target.index(f"/{ACCOUNT}/")]
        parts = []
        for part in request.body.split(f"--{boundary}".encode())[1:-1]:
            head, _, rest = part.partition(b"\r\n\r\n")
            number = next(line for line in head.split(b"\r\n") if line.startswith(b"Content-ID:")).decode()
            inner = parse_head(bytearray(rest))
            if inner is None or inner.method != "DELETE":
                return error(HTTPStatus.BAD_REQUEST, "InvalidInput")
            inner.target = root + inner.target
            answer = self._answer_part(inner, self._answer_inner).head().decode("latin-1")
            parts.append(f"Content-Type: application/http\r\n{number}\r\n\r\n{answer}\r\n")
        boundary = f"batchresponse_{secrets.token_hex(8)}"
        body = "".join(f"--{boundary}\r\n{part}" for part in parts) + f"--{boundary}--\r\n"
        headers = {"Content-Type": f"multipart/mixed; boundary={boundary}"}
        return Response(HTTPStatus.ACCEPTED, headers, BytesBody(body.encode("latin-1")))

    def _answer_inner(self, request: Request) -> Response:
        return self.answer(request, request.path)


def error(status: int, code: str | None = None) -> Response:
    """Refuse, with the code that the service has for it."""
    code = code or CODES.get(HTTPStatus(status), "Error")
    response = xml_response(status, xml("Error", text("Code", code)))
    response.headers["x-ms-error-code"] = code
    return response


def is_signed(request: Request) -> bool:
    """Whether a request has the signature that the account's key makes for it."""
    digest = hmac.digest(base64.b64decode(KEY), text_to_sign(request).encode(), hashlib.sha256)
    expected = f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}"
    return hmac.compare_digest(request.headers["authorization"], expected)


def text_to_sign(request: Request) -> str:
    """Return what the signature of a request is over.

    See https://learn.microsoft.com/rest/api/storageservices/authorize-with-shared-key; there, the path of an emulator
    begins with the account's name once more.
    """
    headers = dict(request.headers)
    if headers.get("content-length") == "0":
        del headers["content-length"]
    if "x-ms-date" in headers:
        headers.pop("date", None)
    lines = [request.method, *(headers.get(name, "") for name in SIGNED_HEADERS)]
    lines += [f"{name}:{value}" for name, value in sorted(headers.items()) if name.startswith("x-ms-")]
    lines.append(f"/{ACCOUNT}{request.target}")
    query: dict[str, list[str]] = {}
    for name, value in parse_qsl(request.query, keep_blank_values=True):
        query.setdefault(name.lower(), []).append(value)
    lines += [f"{name}:{','.join(sorted(values))}" for name, values in sorted(query.items())]
    return "\n".join(lines)


def kept(request: Request) -> dict[str, str]:
    """Return the headers that a blob is answered with later."""
    headers = {KEPT_HEADERS[name]: value for name, value in request.headers.items() if name in KEPT_HEADERS}
    return headers | {name: value for name, value in request.headers.items() if name.startswith("x-ms-meta-")}


def _listed(call: Call) -> Response:
    query, blobs = call.query, call.bucket.blobs
    first = query.get("startFrom", "")
    names = [name for name in blobs if name >= first]
    listing = page(names, query, marker=query.get("marker", ""), most=min(5000, int(query.get("maxresults", "5000"))))
    entries = [xml("BlobPrefix", text("Name", prefix)) for prefix in listing.prefixes]
    for name in listing.names:
        blob = blobs[name]
        properties = {
            "Last-Modified": blob.last_modified,
            "Etag": blob.etag.strip('"'),
            "Content-Length": blob.nbytes,
            "Content-Type": blob.headers.get("Content-Type", "application/octet-stream"),
        }
        fields = "".join(text(field, value) for field, value in properties.items())
        entries.append(xml("Blob", text("Name", name), xml("Properties", fields)))
    document = xml("EnumerationResults", xml("Blobs", *entries), text("NextMarker", listing.marker))
    return xml_response(HTTPStatus.OK, document)


def _got(call: Call) -> Response:
    if call.request.headers.get("range", "").startswith("bytes=-"):
        return error(HTTPStatus.BAD_REQUEST, "InvalidHeaderValue")
    blob = call.bucket.blobs.get(call.name)
    response = get(call.request, blob)
    if response.status >= HTTPStatus.BAD_REQUEST or blob is None:
        return error(response.status)
    response.headers |= {"x-ms-blob-type": "BlockBlob", **blob.headers}
    return response


def _put(call: Call) -> Response:
    if call.request.headers.get("x-ms-blob-type") != "BlockBlob":
        return error(HTTPStatus.BAD_REQUEST, "MissingRequiredHeader")
    return _stored_if_allowed(call, call.request.body, kept(call.request))


def _copied(call: Call) -> Response:
    # Within the container.
    path = unquote(urlsplit(call.request.headers["x-ms-copy-source"]).path)
    found = call.bucket.blobs.get(path.partition(f"/{ACCOUNT}/")[2].partition("/")[2])
    if found is None:
        return error(HTTPStatus.NOT_FOUND)
    response = _stored_if_allowed(call, found.content, found.headers)
    if response.status == HTTPStatus.CREATED:
        response.status = HTTPStatus.ACCEPTED
    return response


def _block_put(call: Call) -> Response:
    call.bucket.uploads.setdefault(call.name, Upload({})).parts[call.query["blockid"]] = call.request.body
    return Response(HTTPStatus.CREATED)


def _blocks_committed(call: Call) -> Response:
    blocks = call.bucket.uploads.get(call.name, Upload({})).parts
    names = texts(call.request.body, "Uncommitted")
    if not blocks.keys() >= set(names):
        return error(HTTPStatus.BAD_REQUEST, "InvalidBlockList")
    return _stored_if_allowed(call, b"".join(blocks[name] for name in names), kept(call.request))


def _stored_if_allowed(call: Call, content: bytes, headers: dict[str, str]) -> Response:
    if failed_condition(call.request.headers, call.bucket.blobs.get(call.name)) is not None:
        if "if-none-match" in call.request.headers:
            return error(HTTPStatus.CONFLICT, "BlobAlreadyExists")
        return error(HTTPStatus.PRECONDITION_FAILED)
    blob = _stored(call.bucket, call.name, content, headers)
    return Response(HTTPStatus.CREATED, {"ETag": blob.etag, "Last-Modified": blob.last_modified})


def _stored(container: Bucket, name: str, content: bytes, headers: dict[str, str]) -> Blob:
    generation = next(generations)
    blob = Blob(content, f'"0x{generation:016X}"', generation, headers)
    container.put(name, blob)
    # Blocks that have not been committed by then never will be.
    container.uploads.pop(name, None)
    return blob


def _deleted(call: Call) -> Response:
    blob = call.bucket.blobs.get(call.name)
    if blob is None:
        return error(HTTPStatus.NOT_FOUND)
    if failed_condition(call.request.headers, blob) is not None:
        return error(HTTPStatus.PRECONDITION_FAILED)
    del call.bucket.blobs[call.name]
    return Response(HTTPStatus.ACCEPTED)


OPERATIONS: dict[tuple[str, str], Callable[[Call], Response]] = {
    ("GET", "list"): _listed,
    ("GET", "blob"): _got,
    ("HEAD", "blob"): _got,
    ("PUT", "blob"): _put,
    ("PUT", "copy"): _copied,
    ("PUT", "block"): _block_put,
    ("PUT", "blocklist"): _blocks_committed,
    ("DELETE", "blob"): _deleted,
}
