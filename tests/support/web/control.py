"""The control plane: what tests ask of a running server, below ``/__control__/`` on the same port."""

from __future__ import annotations

import asyncio
import json
import re
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from .message import Response, json_response
from .rules import Rule, Rulebook

if TYPE_CHECKING:
    from collections.abc import Callable

    from .message import Request
    from .state import State

PREFIX = "__control__/"

AT_LEAST = ("requests", "answered", "aborted", "in_flight", "held", "connections_opened", "bytes_sent")


def handle(state: State, request: Request, reply: Callable[[Response], None]) -> object:
    """Do what a control request asks.

    Parameters
    ----------
    state
        The server's state.
    request
        ``GET stats``, ``GET log``, ``GET wait``, or ``POST`` of ``reset``, ``reset-counts``, ``serve``, ``config``,
        ``hold`` or ``release`` with a JSON object as the body.
    reply
        Called once with the response: at once, or for ``wait`` when the condition holds or the time is over.

    Returns
    -------
    object
        What `Counters.forget` needs when the client goes away first.
    """
    command = request.path.removeprefix(PREFIX)
    try:
        if request.method == "GET" and command == "wait":
            return _wait(state, dict(parse_qsl(request.query)), reply)
        response = _do(state, request.method, command, json.loads(request.body or b"{}"))
    except (ValueError, TypeError, KeyError, re.error) as error:
        response = json_response(HTTPStatus.BAD_REQUEST, {"error": f"{type(error).__name__}: {error}"})
    reply(response)
    return None


def _do(state: State, method: str, command: str, options: dict[str, Any]) -> Response:
    match method, command:
        case "GET", "log":
            return json_response(HTTPStatus.OK, list(state.counters.log))
        case "GET", "stats":
            pass
        case "POST", "reset":
            state.reset()
        case "POST", "reset-counts":
            state.counters.reset()
        case "POST", "serve":
            _serve(state, **options)
        case "POST", "config":
            rules = options.pop("rules", None)
            state.change(**options)
            if rules is not None:
                state.rules = Rulebook([Rule(**rule) for rule in rules])
        case "POST", "hold":
            state.gate.hold(options.get("path", ""), options.get("method"))
        case "POST", "release":
            state.gate.release(options.get("count"))
        case _:
            return json_response(HTTPStatus.NOT_FOUND, {"error": f"no such command: {method} {command}"})
    return json_response(HTTPStatus.OK, state.stats())


def _serve(state: State, mount: str, root: str | None = None, modulus: str = "") -> None:
    if root is None:
        state.serve_cloud(mount, int(modulus, 16))
    else:
        state.serve(Path(root), mount)


def _wait(state: State, options: dict[str, str], reply: Callable[[Response], None]) -> object:
    timeout_s = float(options.pop("timeout", "10"))
    is_idle = bool(int(options.pop("idle", "0")))
    least = {name: int(value) for name, value in options.items()}
    unknown = set(least).difference(AT_LEAST)
    if unknown:
        msg = f"cannot wait for {sorted(unknown)}: only for idle and {AT_LEAST}"
        raise ValueError(msg)

    def holds() -> bool:
        stats: dict[str, Any] = {**state.stats()}
        if is_idle and stats["in_flight"]:
            return False
        return all(stats[name] >= value for name, value in least.items())

    def give_up() -> None:
        state.counters.forget(waiter)
        reply(json_response(HTTPStatus.GATEWAY_TIMEOUT, state.stats()))

    def done() -> None:
        timer.cancel()
        reply(json_response(HTTPStatus.OK, state.stats()))

    timer = asyncio.get_running_loop().call_later(timeout_s, give_up)
    waiter = state.counters.when(holds, done)
    return waiter
