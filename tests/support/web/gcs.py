"""Google Cloud Storage by its XML API: objects with generations, conditions, uploads in parts, listings.

Buckets keep all versions. Requests carry the token that a service account signs for itself.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote

from .blobs import Blob, Bucket, Call, Upload, generations, page, text, texts, xml, xml_response
from .conditions import failed_condition
from .message import Request, Response
from .site import get

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

CODES = {
    HTTPStatus.UNAUTHORIZED: "AuthenticationRequired",
    HTTPStatus.NOT_FOUND: "NoSuchKey",
    HTTPStatus.PRECONDITION_FAILED: "PreconditionFailed",
    HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE: "InvalidRange",
}
KEPT_HEADERS = {
    "cache-control": "Cache-Control",
    "content-disposition": "Content-Disposition",
    "content-encoding": "Content-Encoding",
    "content-language": "Content-Language",
    "content-type": "Content-Type",
}
SMALLEST_PART = 5 << 20
# What precedes the digest in a signature (RFC 8017, 9.2, for SHA-256).
SHA256_INFO = bytes.fromhex("3031300d060960864801650304020105000420")
RSA_EXPONENT = 65537


class Gcs:
    """The service.

    Parameters
    ----------
    buckets
        Names of the buckets there are.
    modulus
        Of the service account's RSA key.
    """

    def __init__(self, buckets: Iterable[str], modulus: int) -> None:
        self._buckets = {name: Bucket() for name in buckets}
        self._modulus = modulus

    def answer(self, request: Request, path: str) -> Response:
        """Answer a request whose path, bucket first, is `path`."""
        if not is_signed(request.headers.get("authorization", ""), self._modulus):
            return error(HTTPStatus.UNAUTHORIZED)
        name, _, key = path.partition("/")
        bucket = self._buckets.get(name)
        if bucket is None:
            return error(HTTPStatus.NOT_FOUND, "NoSuchBucket")
        query = dict(parse_qsl(request.query, keep_blank_values=True))
        about = "object" if key else "bucket"
        if not query.keys().isdisjoint(("uploadId", "uploads")):
            about = "upload"
        operation = OPERATIONS.get((request.method, about))
        if operation is None:
            return error(HTTPStatus.METHOD_NOT_ALLOWED, "MethodNotAllowed")
        return operation(Call(request, bucket, key, query))

    def put(self, path: str, content: bytes) -> None:
        """Store an object, whatever is there."""
        name, _, key = path.partition("/")
        _stored(self._buckets[name], key, content, {})

    def delete(self, path: str) -> None:
        """Remove an object, if it is there."""
        name, _, key = path.partition("/")
        self._buckets[name].blobs.pop(key, None)


def error(status: int, code: str | None = None) -> Response:
    """Refuse, with the code that the service has for it."""
    return xml_response(status, xml("Error", text("Code", code or CODES.get(HTTPStatus(status), "Error"))))


def is_signed(authorization: str, modulus: int) -> bool:
    """Whether a header holds a JSON Web Token (RS256) of the key with this modulus."""
    scheme, _, token = authorization.partition(" ")
    signed, _, signature = token.rpartition(".")
    if scheme != "Bearer" or signed.count(".") != 1:
        return False
    header = json.loads(base64url(signed.partition(".")[0]))
    nbytes = (modulus.bit_length() + 7) // 8
    opened = pow(int.from_bytes(base64url(signature)), RSA_EXPONENT, modulus).to_bytes(nbytes)
    ending = b"\x00" + SHA256_INFO + hashlib.sha256(signed.encode()).digest()
    return header["alg"] == "RS256" and opened == b"\x00\x01" + b"\xff" * (nbytes - 2 - len(ending)) + ending


def base64url(encoded: str) -> bytes:
    """Decode base64 of the kind that needs no quoting and has no padding."""
    return base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))


def md5(content: bytes) -> str:
    """Return an entity tag that says what the content is."""
    return f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'


def is_changed(request: Request, blob: Blob | None) -> bool:
    """Whether the object is not the one that the request depends on."""
    wanted = request.headers.get("x-goog-if-generation-match")
    if wanted is not None and int(wanted) != (0 if blob is None else blob.generation):
        return True
    return failed_condition(request.headers, blob) is not None


def kept(request: Request) -> dict[str, str]:
    """Return the headers that an object is answered with later."""
    headers = {KEPT_HEADERS[name]: value for name, value in request.headers.items() if name in KEPT_HEADERS}
    return headers | {name: value for name, value in request.headers.items() if name.startswith("x-goog-meta-")}


def _listed(call: Call) -> Response:
    query, blobs = call.query, call.bucket.blobs
    after = query.get("start-after", "")
    names = [name for name in blobs if name > after]
    most = min(1000, int(query.get("max-keys", "1000")))
    listing = page(names, query, marker=query.get("continuation-token", ""), most=most)
    entries = [xml("CommonPrefixes", text("Prefix", prefix)) for prefix in listing.prefixes]
    for name in listing.names:
        blob = blobs[name]
        modified = parsedate_to_datetime(blob.last_modified).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        fields = [text("Key", name), text("Size", blob.nbytes), text("LastModified", modified), text("ETag", blob.etag)]
        entries.append(xml("Contents", *fields))
    if listing.marker:
        entries.append(text("NextContinuationToken", listing.marker))
    return xml_response(HTTPStatus.OK, xml("ListBucketResult", *entries))


def _got(call: Call) -> Response:
    generation = call.query.get("generation")
    current = call.bucket.blobs.get(call.name)
    blob = current if generation is None else call.bucket.version(call.name, int(generation))
    response = get(call.request, blob)
    if response.status >= HTTPStatus.BAD_REQUEST or blob is None:
        return error(response.status)
    response.headers |= {"x-goog-generation": str(blob.generation), **blob.headers}
    return response


def _put(call: Call) -> Response:
    content, headers = call.request.body, kept(call.request)
    source = call.request.headers.get("x-goog-copy-source")
    if source is not None:
        # Within the bucket.
        found = call.bucket.blobs.get(unquote(source).partition("/")[2])
        if found is None:
            return error(HTTPStatus.NOT_FOUND)
        content, headers = found.content, found.headers
    if is_changed(call.request, call.bucket.blobs.get(call.name)):
        return error(HTTPStatus.PRECONDITION_FAILED)
    return _stored(call.bucket, call.name, content, headers)


def _stored(bucket: Bucket, key: str, content: bytes, headers: dict[str, str], *, parts: int = 0) -> Response:
    generation = next(generations)
    # The tag of a whole upload is its MD5: the same content has the same tag, but another generation.
    etag = f'"{generation:x}-{parts}"' if parts else md5(content)
    bucket.put(key, Blob(content, etag, generation, headers))
    return Response(HTTPStatus.OK, {"ETag": etag, "x-goog-generation": str(generation)})


def _deleted(call: Call) -> Response:
    if is_changed(call.request, call.bucket.blobs.get(call.name)):
        return error(HTTPStatus.PRECONDITION_FAILED)
    if call.bucket.blobs.pop(call.name, None) is None:
        return error(HTTPStatus.NOT_FOUND)
    return Response(HTTPStatus.NO_CONTENT)


def _part_put(call: Call) -> Response:
    upload = call.bucket.uploads.get(call.query["uploadId"])
    if upload is None:
        return error(HTTPStatus.NOT_FOUND, "NoSuchUpload")
    upload.parts[call.query["partNumber"]] = call.request.body
    return Response(HTTPStatus.OK, {"ETag": md5(call.request.body)})


def _upload_posted(call: Call) -> Response:
    """Begin an upload, or complete it."""
    if "uploads" in call.query:
        name = secrets.token_hex(16)
        call.bucket.uploads[name] = Upload(kept(call.request))
        return xml_response(HTTPStatus.OK, xml("InitiateMultipartUploadResult", text("UploadId", name)))
    upload = call.bucket.uploads.get(call.query["uploadId"])
    if upload is None:
        return error(HTTPStatus.NOT_FOUND, "NoSuchUpload")
    numbers, tags = texts(call.request.body, "PartNumber"), texts(call.request.body, "ETag")
    parts = [upload.parts[number] for number in numbers if number in upload.parts]
    if not parts or [md5(part) for part in parts] != tags:
        return error(HTTPStatus.BAD_REQUEST, "InvalidPart")
    if any(len(part) < SMALLEST_PART for part in parts[:-1]):
        return error(HTTPStatus.BAD_REQUEST, "EntityTooSmall")
    del call.bucket.uploads[call.query["uploadId"]]
    stored = _stored(call.bucket, call.name, b"".join(parts), upload.headers, parts=len(parts))
    response = xml_response(HTTPStatus.OK, xml("CompleteMultipartUploadResult", text("ETag", stored.headers["ETag"])))
    response.headers |= stored.headers
    return response


def _upload_aborted(call: Call) -> Response:
    if call.bucket.uploads.pop(call.query["uploadId"], None) is None:
        return error(HTTPStatus.NOT_FOUND, "NoSuchUpload")
    return Response(HTTPStatus.NO_CONTENT)


OPERATIONS: dict[tuple[str, str], Callable[[Call], Response]] = {
    ("GET", "bucket"): _listed,
    ("GET", "object"): _got,
    ("HEAD", "object"): _got,
    ("PUT", "object"): _put,
    ("DELETE", "object"): _deleted,
    ("PUT", "upload"): _part_put,
    ("POST", "upload"): _upload_posted,
    ("DELETE", "upload"): _upload_aborted,
}
