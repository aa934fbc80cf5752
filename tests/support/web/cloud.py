"""GCS and Azure as one site: each below its own path, with the same buckets, empty at first."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from .azure import Azure
from .gcs import Gcs
from .message import Response

if TYPE_CHECKING:
    from .message import Request
    from .rules import Spoiled

# One for tests that keep to a prefix of their own, and one for those that need it empty.
BUCKETS = ("zarr", "suite")


class Cloud:
    """Both services.

    Parameters
    ----------
    modulus
        Of the RSA key of GCS's service account.
    answer_part
        Answers a request that is a part of another one.
    """

    def __init__(self, modulus: int, answer_part: Spoiled) -> None:
        self._gcs = Gcs(BUCKETS, modulus)
        self._azure = Azure(BUCKETS, answer_part)

    def answer(self, request: Request) -> Response:
        """Answer a request as the service that it is for."""
        service, _, path = request.path.partition("/")
        match service:
            case "gcs":
                return self._gcs.answer(request, path)
            case "azure":
                return self._azure.answer(request, path)
        return Response(HTTPStatus.NOT_FOUND)

    def put(self, path: str, content: bytes) -> None:
        """Store `content` at `path`, as somebody else would."""
        service, _, path = path.partition("/")
        (self._gcs if service == "gcs" else self._azure).put(path, content)

    def delete(self, path: str) -> None:
        """Remove what is at `path`, if there is something."""
        service, _, path = path.partition("/")
        (self._gcs if service == "gcs" else self._azure).delete(path)
