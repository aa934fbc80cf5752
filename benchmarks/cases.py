"""What is asked of a contender, as plain data that crosses to its process."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    import numpy.typing as npt

    from benchmarks.libraries import Library

PlaceKind = Literal["local", "http", "s3", "s3fs"]

AT_ONCE = 128
"""Requests that a perfect reader has in flight; more of them need another round trip."""


class Unavailable(Exception):  # noqa: N818 - an answer, shown as "n/a", rather than an error
    """A contender cannot do a case; the message says why."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where arrays are, and by which kind of store they are reached.

    Parameters
    ----------
    kind
        ``local`` (a directory), ``http`` (a plain web server), ``s3`` (through obstore,
        or the contender's own client) or ``s3fs`` (the same bucket through fsspec).
    root
        The directory, the base URL, or the name of the bucket.
    endpoint
        URL of the S3 server; unused elsewhere.
    key, secret
        Credentials for the S3 server; unused elsewhere.
    """

    kind: PlaceKind
    root: str
    endpoint: str = ""
    key: str = field(default="", repr=False)
    secret: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Selection:
    """Elements of an array, by one of zarr's ways of indexing.

    Parameters
    ----------
    kind
        ``basic`` (slices), ``orthogonal`` (per axis a slice or positions) or ``points``
        (one list of coordinates per axis).
    index
        One entry per axis; empty means the whole array.
    """

    kind: Literal["basic", "orthogonal", "points"] = "basic"
    index: tuple[slice | tuple[int, ...], ...] = ()

    def native(self) -> tuple[slice | npt.NDArray[np.intp], ...]:
        """Return the index with its positions as integer arrays."""
        return tuple(entry if isinstance(entry, slice) else np.asarray(entry, dtype=np.intp) for entry in self.index)

    def of(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return what NumPy selects from `array`: the expected outcome of a read."""
        if self.kind != "orthogonal":
            return array[self.native() or ...]
        positions = (np.arange(size)[entry] for entry, size in zip(self.native(), array.shape, strict=True))
        selected: npt.NDArray[Any] = array[np.ix_(*positions)]
        return selected


WHOLE = Selection()


@dataclass(frozen=True, slots=True)
class Operation:
    """One measured thing: every selection of every array, gathered or in steps.

    Parameters
    ----------
    verb
        Whether the selections are read or written. A library may also only open what there is.
    place, arrays
        Where the arrays are, and their paths below that place. All of them hold the
        same values.
    reference
        Path of the ``.npy`` file with those values; of a pickle, for a library.
    selections
        What is read or written of each array.
    together
        How many reads or writes are awaited before the next begin; 0 for all of them.
    increment
        Writes store the reference plus this, so that an overwrite which changed nothing
        cannot pass for one that worked.
    heartbeat
        Whether the lag of the event loop is measured meanwhile. It costs a little, so it
        is off where time is what is measured.
    primer
        A small array that is read first, so that imports and pools do not count; empty
        where warm-up rounds see to that.
    beside
        A much larger operation that is started first; then this one is measured alone
        and beside it.
    after
        A much larger operation that is started first and cancelled while it waits for the
        server; then this one is measured alone and right after it.
    library
        The library that does it, with whole data sets in the place of arrays; ``None`` for zarr alone.
    """

    verb: Literal["open", "read", "write"]
    place: Place
    arrays: tuple[str, ...]
    reference: str
    selections: tuple[Selection, ...] = (WHOLE,)
    together: int = 0
    increment: int = 0
    heartbeat: bool = False
    primer: str = ""
    beside: Operation | None = None
    after: Operation | None = None
    library: Library | None = None


Sample = dict[str, float]
"""Figures of one run. Always ``wall_s``; others where they are measured."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a worker answers.

    Parameters
    ----------
    sample
        The figures; empty when the operation did not succeed.
    problem
        Why it did not succeed, or ``None``.
    note
        What a reader of the figures should know, such as a fallback.
    """

    sample: Sample
    problem: str | None = None
    note: str | None = None


def _nothing(contender: str, sample: int) -> None:
    """Prepare nothing."""


@contextmanager
def _unwatched() -> Iterator[Sample]:
    """See nothing."""
    yield {}


@dataclass(frozen=True, slots=True)
class Case:
    """One row of a table: the same operation, asked of every contender.

    Parameters
    ----------
    scenario, layout, name
        What the row is called.
    operation
        Makes the operation of a contender's sample; sample 0 is the warm-up. Cases that
        must find nothing remembered go to another copy of the data in each sample.
    before
        Called ahead of each sample, untimed: puts the data and the server in order.
    watch
        Entered for as long as a sample takes. What it yields is given the contender's own
        figures, and has, after the exit, those seen from outside too, such as request counts.
    latency_ms
        What the server adds to each request.
    arrays
        How many arrays are gathered.
    round_trips
        How many times the layout makes a perfect reader wait for the server, one after
        another; ``None`` where that is not a question.
    at_once
        How many requests a perfect reader has to have in flight; ``None`` for writes, and
        where that is not a question.
    fresh
        Whether each sample gets a new process, which is ended afterwards. There is no
        warm-up then.
    rounds
        An upper bound for what the command line asks for.
    """

    scenario: str
    layout: str
    name: str
    operation: Callable[[str, int], Operation]
    before: Callable[[str, int], None] = _nothing
    watch: Callable[[], AbstractContextManager[Sample]] = _unwatched
    latency_ms: float = 0.0
    arrays: int = 1
    round_trips: int | None = None
    at_once: int | None = None
    fresh: bool = False
    rounds: int = 1_000


def always(operation: Operation) -> Callable[[str, int], Operation]:
    """Return the same operation for every contender and sample."""
    return lambda _contender, _sample: operation


@dataclass(frozen=True, slots=True)
class Plan:
    """What the command line asks of a scenario.

    Parameters
    ----------
    data
        Directory of the data sets.
    quick, full
        Whether to use small data; whether to run what needs many GiB.
    rounds
        Timed samples per contender and case.
    """

    data: str
    quick: bool
    full: bool
    rounds: int


class Scenario(Protocol):
    """A file of `scenarios`: servers up, cases out, servers down."""

    def __call__(self, plan: Plan) -> Iterator[Case]:
        """Yield the cases; whatever they need is there while they are being consumed."""
        ...
