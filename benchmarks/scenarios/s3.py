"""A real S3 server without latency: what signing, clients and stores cost by themselves."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.scenarios.network import remotes
from benchmarks.servers import s3_place, upload
from support.servers import S3Server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.cases import Case, Plan

_QUICK_S3FS = {"64 chunks", "write 64 chunks"}
"""What a quick run reads through s3fs, which takes it ten times as long as the rest."""


def s3(plan: Plan) -> Iterator[Case]:
    """Yield each case through obstore and through s3fs."""
    with S3Server() as server:
        uploaded: set[tuple[str, str]] = set()
        for job in remotes(plan):
            for store, through_s3fs in (("obstore", False), ("s3fs", True)):
                if plan.quick and through_s3fs and job.name not in _QUICK_S3FS:
                    continue
                # Objects of their own: what was remembered of one store is unknown to the other.
                for path in job.dataset.paths:
                    if (store, path) not in uploaded:
                        upload(server, Path(plan.data, path), f"{store}/{path}")
                        uploaded.add((store, path))
                source = Path(plan.data, job.dataset.paths[0])
                place = s3_place(server, through_s3fs=through_s3fs)
                case = job.case("s3", place, plan, below=f"{store}/")
                yield replace(
                    case,
                    layout=f"{store}: {case.layout}",
                    before=job.before(partial(_put, server, source, f"{store}/")),
                )


def _put(server: S3Server, source: Path, below: str, target: str, chunks: bool) -> None:  # noqa: FBT001 - as `before` calls it
    upload(server, source, f"{below}{target}", chunks=chunks)
