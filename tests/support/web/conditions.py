"""Conditions of HTTP (RFC 9110, 13): whether a request may see or change what is stored."""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping


class Tagged(Protocol):
    """What conditions are about."""

    @property
    def etag(self) -> str:
        """The entity tag, quotes included."""

    @property
    def last_modified(self) -> str:
        """Date of the last change, as HTTP writes it."""


def failed_condition(
    headers: Mapping[str, str], stored: Tagged | None, if_unchanged: HTTPStatus = HTTPStatus.PRECONDITION_FAILED
) -> HTTPStatus | None:
    """Return the status of the first condition that does not hold.

    Parameters
    ----------
    headers
        Of the request, names in lower case.
    stored
        The object, or None where there is none.
    if_unchanged
        Status where If-None-Match or If-Modified-Since does not hold.
    """
    if (if_match := headers.get("if-match")) is not None:
        if not _matches(if_match, stored):
            return HTTPStatus.PRECONDITION_FAILED
    elif (date := headers.get("if-unmodified-since")) is not None and stored is not None and _is_after(stored, date):
        return HTTPStatus.PRECONDITION_FAILED
    if (if_none_match := headers.get("if-none-match")) is not None:
        if _matches(if_none_match, stored):
            return if_unchanged
    elif (date := headers.get("if-modified-since")) is not None and stored is not None and not _is_after(stored, date):
        return if_unchanged
    return None


def _matches(condition: str, stored: Tagged | None) -> bool:
    if stored is None:
        return False
    return condition == "*" or stored.etag in (tag.strip() for tag in condition.split(","))


def _is_after(stored: Tagged, date: str) -> bool:
    return parsedate_to_datetime(stored.last_modified) > parsedate_to_datetime(date)
