"""The servers that tests, benchmarks and the demo start: each a context manager around a process."""

from __future__ import annotations

from .range_client import RangeServer, Rule
from .s3_server import S3Server

__all__ = ["RangeServer", "Rule", "S3Server"]
