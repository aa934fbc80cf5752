"""Rules: which requests are spoiled, and how. The same class describes a rule to a test and to the server."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from .message import BytesBody, EndlessBody, ExtendedBody, Response

if TYPE_CHECKING:
    from .message import Request

Spoiled = Callable[["Request", Callable[["Request"], Response]], Response]
"""Answers a request by asking something else, unless a rule is in the way."""

Action = Literal[
    "delay",
    "status",
    "reset",
    "lose_answer",
    "truncate",
    "stall",
    "ignore_range",
    "refuse_suffix",
    "headers",
    "extend",
    "endless",
    "no_etag",
    "weak_etag",
    "new_etag",
    "no_length",
    "replace",
]

numbers = itertools.count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What happens to the requests that match.

    Parameters
    ----------
    action
        - ``delay``: answer after `delay_ms` in place of the server's latency;
        - ``status``: answer with `status`, `headers` and `body`;
        - ``reset``: end the connection with a TCP reset;
        - ``lose_answer``: do what is asked for, then end the connection with a TCP reset in place of an answer;
        - ``truncate``: send the head and `nbytes` of the body, then close the connection;
        - ``stall``: send the head and `nbytes` of the body, then nothing more;
        - ``ignore_range``: answer 200 with the whole object;
        - ``refuse_suffix``: answer ``bytes=-n`` with `status`; matches suffix ranges only;
        - ``headers``: answer with `headers` in place of those of the same name; a ``Content-Length`` among them is
          announced in place of the body's, whose end is then that of the connection;
        - ``extend``: send `nbytes` more than what was asked for, and announce them;
        - ``endless``: send zeros until the client goes away, and announce no length;
        - ``no_etag``: leave the ETag out;
        - ``new_etag``: send an ETag that was never sent before and will never match;
        - ``no_length``: do not announce the body's length; its end is that of the connection;
        - ``weak_etag``: make the ETag a weak one, which no If-Match is true of;
        - ``replace``: answer, then put the file `source` in the object's place, or delete the object.
    path
        Regular expression, searched for in the path (no leading slash).
    method
        Only this method; None is any.
    byte_range
        Regular expression, searched for in the Range header, which is empty where there is none.
    nth
        The first request to hit, counted from 1 among those that match.
    times
        How many requests to hit from there on; by default all of them, or one if `nth` is given.
    status, headers
        For ``status`` and ``refuse_suffix``; `headers` for ``headers`` too.
    body
        For ``status``.
    nbytes
        Bytes of the body, for ``truncate`` and ``stall``; more bytes, for ``extend``.
    delay_ms
        Milliseconds, for ``delay``.
    source
        File on disk, for ``replace``; None deletes.
    target
        Path of the object to replace; None is the one asked for.
    """

    action: Action
    path: str = ""
    method: str | None = None
    byte_range: str = ""
    nth: int | None = None
    times: int | Literal["all"] | None = None
    status: int = 501
    headers: dict[str, str] = field(default_factory=dict)
    body: str = ""
    nbytes: int = 0
    delay_ms: float = 0.0
    source: str | None = None
    target: str | None = None


class Rulebook:
    """The rules in force, with the count of requests that each has seen and hit.

    Parameters
    ----------
    rules
        In the order in which they are tried.

    Raises
    ------
    re.error
        A path or a byte range is not a regular expression.
    """

    def __init__(self, rules: list[Rule]) -> None:
        self._rules = [(rule, re.compile(rule.path), re.compile(rule.byte_range)) for rule in rules]
        self._seen = [0] * len(rules)
        self.hits = [0] * len(rules)

    def strike(self, request: Request) -> list[Rule]:
        """Return the rules that hit `request`, and count it."""
        struck = []
        for number, (rule, path, byte_range) in enumerate(self._rules):
            is_range = byte_range.search(request.headers.get("range", "")) is not None
            if not (is_range and _applies(rule, path, request)):
                continue
            self._seen[number] += 1
            first = rule.nth or 1
            times = rule.times if rule.times is not None else (1 if rule.nth else "all")
            if self._seen[number] >= first and (times == "all" or self._seen[number] < first + times):
                self.hits[number] += 1
                struck.append(rule)
        return struck


def _applies(rule: Rule, path: re.Pattern[str], request: Request) -> bool:
    if rule.method is not None and rule.method != request.method:
        return False
    if rule.action == "refuse_suffix" and not request.headers.get("range", "").startswith("bytes=-"):
        return False
    return path.search(request.path) is not None


def spoiled_answer(request: Request, struck: dict[Action, Rule], answer: Callable[[Request], Response]) -> Response:
    """Answer as the rules that struck want it; what concerns the connection is not seen to here."""
    refusal = struck.get("status") or struck.get("refuse_suffix")
    if "ignore_range" in struck:
        request.headers.pop("range", None)
    if refusal is not None:
        response = Response(refusal.status, dict(refusal.headers), BytesBody(refusal.body.encode("latin-1")))
    else:
        response = answer(request)
    _spoil_head(response, struck)
    if "extend" in struck:
        response.body = ExtendedBody(response.body, struck["extend"].nbytes)
    if "endless" in struck:
        response.body.close()
        response.body = EndlessBody()
    if "no_length" in struck or "endless" in struck:
        response.headers["Connection"] = "close"
        response.has_length = False
    return response


def _spoil_head(response: Response, struck: dict[Action, Rule]) -> None:
    if "no_etag" in struck:
        response.headers.pop("ETag", None)
    if "new_etag" in struck:
        response.headers["ETag"] = f'"new-{next(numbers)}"'
    if "weak_etag" in struck and "ETag" in response.headers:
        response.headers["ETag"] = f"W/{response.headers['ETag']}"
    if "headers" in struck:
        response.headers.update(struck["headers"].headers)
