"""`RangeServer`: starts the range server as a process and speaks to its control plane."""

from __future__ import annotations

import asyncio
import dataclasses
import http.client
import json
import subprocess
import sys
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast
from urllib.parse import urlencode

from .web.rules import Rule

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .web.counters import Logged, Stats

__all__ = ["RangeServer", "Rule"]

SCRIPT = Path(__file__).with_name("range_server.py")
STOP_TIMEOUT_S = 5.0
# The server answers at once, or for `wait` at its own deadline: more than this beyond it is a bug.
CONTROL_TIMEOUT_S = 10.0
_UNSET: Any = object()


class RangeServer:
    """The range server in a process of its own, which ends with this one.

    Parameters
    ----------
    root
        Directory to serve.
    latency_ms
        Milliseconds from the arrival of a request to its answer.
    bandwidth_mib
        MiB per second that all answers share; None is without limit.
    require_header
        ``Name: value`` without which a request is answered 401.
    h2
        Whether to serve the same over TLS and HTTP/2 too, at `h2_url`, with a certificate that nobody has signed.

    Examples
    --------
    >>> with RangeServer(tmp_path) as server:
    ...     server.hold()
    ...     reading = asyncio.create_task(read_from(server.url))
    ...     await server.wait_async(in_flight=64)
    ...     server.release()
    """

    def __init__(
        self,
        root: Path,
        *,
        latency_ms: float = 0.0,
        bandwidth_mib: float | None = None,
        require_header: str | None = None,
        h2: bool = False,
    ) -> None:
        self.root = root
        self._mounts = 0
        self._mount = ""
        self._idle: list[http.client.HTTPConnection] = []
        command = [sys.executable, str(SCRIPT), "--root", str(root), "--latency-ms", str(latency_ms)]
        if bandwidth_mib is not None:
            command += ["--bandwidth-mib", str(bandwidth_mib)]
        if require_header is not None:
            command += ["--require-header", require_header]
        if h2:
            command.append("--h2")
        # A process group of its own: Ctrl-C is for the tests, which then stop their servers in order.
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, process_group=0)  # noqa: S603 - our own script
        line = self._process.stdout.readline() if self._process.stdout else b""
        if not line:
            self.stop()
            msg = f"the range server did not start: exit status {self._process.returncode}"
            raise RuntimeError(msg)
        ports = json.loads(line)
        self.port: int = ports["port"]
        self._h2_port: int | None = ports.get("h2_port")

    def __enter__(self) -> Self:
        """Return the server, which is running already."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self.stop()

    @property
    def url(self) -> str:
        """Where `root` is served, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}{self._mount}"

    @property
    def h2_url(self) -> str:
        """Where `root` is served over HTTP/2, without a slash at the end."""
        return f"https://127.0.0.1:{self._h2_port}{self._mount}"

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process is alive."""
        return self._process.poll() is None

    def stop(self) -> None:
        """End the process; the connections of its clients end with it."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def serve(self, root: Path) -> None:
        """Serve another directory, at a URL that was never used before, and reset everything."""
        self._post("serve", {"root": str(root), "mount": self._new_mount()})
        self.root = root

    def serve_cloud(self, modulus: str) -> None:
        """Serve GCS and Azure, both empty, at a URL that was never used before, and reset everything.

        Parameters
        ----------
        modulus
            Of the RSA key of GCS's service account, in hexadecimal.
        """
        self._post("serve", {"modulus": modulus, "mount": self._new_mount()})

    def stats(self) -> Stats:
        """Return all counts since the last reset."""
        return cast("Stats", self._call("GET", "stats"))

    def log(self) -> list[Logged]:
        """Return the last requests, in the order of arrival."""
        return cast("list[Logged]", self._call("GET", "log"))

    def reset(self) -> None:
        """Return to how the server was started: counts, log, settings, rules, holds; all connections end."""
        self._post("reset")

    def reset_counts(self) -> None:
        """Set counts and log to zero and leave everything else as it is."""
        self._post("reset-counts")

    def config(
        self,
        *,
        latency_ms: float = _UNSET,
        bandwidth_mib: float | None = _UNSET,
        connection_mib: float | None = _UNSET,
        require_header: str | None = _UNSET,
        rules: Sequence[Rule] = _UNSET,
    ) -> None:
        """Change what is given, from the next request on; `rules` take the place of those before."""
        options: dict[str, Any] = {
            "latency_ms": latency_ms,
            "bandwidth_mib": bandwidth_mib,
            "connection_mib": connection_mib,
            "require_header": require_header,
        }
        if rules is not _UNSET:
            options["rules"] = [dataclasses.asdict(rule) for rule in rules]
        self._post("config", {name: value for name, value in options.items() if value is not _UNSET})

    def hold(self, path: str = "", method: str | None = None) -> None:
        """Hold the answers to requests whose path the regular expression `path` is found in."""
        self._post("hold", {"path": path, "method": method})

    def release(self, count: int | None = None) -> None:
        """Let the `count` oldest held answers go and hold on, or let all go and hold no more."""
        self._post("release", {"count": count})

    def wait(self, *, timeout_s: float = 10.0, idle: bool = False, **at_least: int) -> Stats:
        """Wait until the counts have come so far.

        Parameters
        ----------
        timeout_s
            Seconds to wait at most.
        idle
            Whether to wait until no request is in flight.
        **at_least
            Counts to reach: `requests`, `answered`, `aborted`, `in_flight`, `held`, `connections_opened`, `bytes_sent`.

        Returns
        -------
        Stats
            All counts, of the moment in which the condition was first true.

        Raises
        ------
        TimeoutError
            The counts did not come so far; the message has them.
        """
        options = {"timeout": timeout_s, "idle": int(idle), **at_least}
        return cast("Stats", self._call("GET", f"wait?{urlencode(options)}", timeout_s=timeout_s))

    async def wait_async(self, *, timeout_s: float = 10.0, idle: bool = False, **at_least: int) -> Stats:
        """Like `wait`, while the event loop goes on."""
        return await asyncio.to_thread(self.wait, timeout_s=timeout_s, idle=idle, **at_least)

    def _new_mount(self) -> str:
        self._mounts += 1
        self._mount = f"/root{self._mounts}"
        return self._mount[1:]

    def _post(self, command: str, options: dict[str, Any] | None = None) -> None:
        self._call("POST", command, options or {})

    def _call(self, method: str, command: str, options: dict[str, Any] | None = None, timeout_s: float = 0.0) -> object:
        """Ask the control plane; several threads may, each on a connection of its own."""
        connection = self._idle.pop() if self._idle else http.client.HTTPConnection("127.0.0.1", self.port)
        connection.timeout = timeout_s + CONTROL_TIMEOUT_S
        try:
            connection.request(method, f"/__control__/{command}", None if options is None else json.dumps(options))
            response = connection.getresponse()
            content = json.loads(response.read())
        except BaseException:
            connection.close()
            raise
        self._idle.append(connection)
        if response.status == HTTPStatus.GATEWAY_TIMEOUT:
            msg = f"{command} did not come true within {timeout_s} s: {content}"
            raise TimeoutError(msg)
        if response.status != HTTPStatus.OK:
            raise ValueError(content["error"])
        return content
