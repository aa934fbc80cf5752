"""How the tests' servers appear to a case: as places, and as counts of what they saw."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from benchmarks.cases import Place

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from benchmarks.cases import Sample
    from support.servers import RangeServer, S3Server


def http_place(server: RangeServer) -> Place:
    """Return the root of a web server."""
    return Place("http", server.url)


def s3_place(server: S3Server, *, through_s3fs: bool = False) -> Place:
    """Return the bucket of an S3 server, for one of the two ways there."""
    return Place(
        "s3fs" if through_s3fs else "s3",
        server.bucket,
        endpoint=server.endpoint,
        key=server.access_key,
        secret=server.secret_key,
    )


@contextmanager
def watch(server: RangeServer) -> Iterator[Sample]:
    """Count the requests of a sample, once those of a sample that was given up are over."""
    server.wait(idle=True)
    server.reset_counts()
    sample: Sample = {}
    yield sample
    stats = server.stats()
    sample["requests"] = stats["requests"]
    sample["in_flight_max"] = stats["in_flight_max"]
    sample["sent_bytes"] = stats["bytes_sent"]


def upload(server: S3Server, source: Path, target: str, *, chunks: bool = True) -> None:
    """Put an array below `target` in the bucket, or only its metadata."""
    store = server.obstore()
    for path in source.rglob("*" if chunks else "zarr.json"):
        if path.is_file():
            store.put(f"{target}/{path.relative_to(source).as_posix()}", path)
