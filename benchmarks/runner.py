"""Cases times contenders, interleaved: what drifts in a machine hits all alike.

In every round each contender does the case once, in an order drawn anew. Round 0 warms
up, is compared with the reference, and tells how many rounds fit into the time budget.
"""

from __future__ import annotations

import multiprocessing
import statistics
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from benchmarks.cases import Reply
from benchmarks.contenders import CONTENDERS
from benchmarks.worker import serve

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Iterator
    from types import TracebackType

    from benchmarks.cases import Case, Operation, Sample
    from benchmarks.contenders import Contender
    from benchmarks.worker import Action

_SPAWN = multiprocessing.get_context("spawn")
_CHECKER = CONTENDERS["batched"]
_START_S = 60.0
_FAREWELL_S = 2.0


@dataclass(slots=True)
class Cell:
    """One case by one contender.

    Parameters
    ----------
    case, contender
        What was done, and by whom.
    samples
        The figures of each round.
    problem
        Why there are none, or ``None``.
    note
        What a reader should know about them, or ``None``.
    """

    case: Case
    contender: Contender
    samples: list[Sample] = field(default_factory=list)
    problem: str | None = None
    note: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the cell as it is stored."""
        case = self.case
        names = self.samples[0] if self.samples else ()
        return {
            "scenario": case.scenario,
            "layout": case.layout,
            "case": case.name,
            "latency_ms": case.latency_ms,
            "arrays": case.arrays,
            "round_trips": case.round_trips,
            "at_once": case.at_once,
            "contender": self.contender.name,
            "label": self.contender.label,
            "medians": {name: statistics.median(sample[name] for sample in self.samples) for name in names},
            "samples": self.samples,
            "problem": self.problem,
            "note": self.note,
        }


class Fleet:
    """The worker processes, started when first asked.

    Parameters
    ----------
    contenders
        Who takes part.
    limit_s
        Seconds after which a worker that has not answered is ended.
    """

    def __init__(self, contenders: Iterable[Contender], limit_s: float) -> None:
        self.contenders = tuple(contenders)
        self._limit_s = limit_s
        self._workers: dict[str, _Worker] = {}

    def __enter__(self) -> Self:
        """Return the fleet; no process runs yet."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End every process."""
        for name in list(self._workers):
            self._end(name)

    def ask(self, contender: Contender, action: Action, operation: Operation) -> Reply:
        """Let a contender do an operation, and wait for its answer."""
        return self._ask(contender.name, contender, action, operation)

    def check(self, operation: Operation) -> Reply:
        """Let zarr's default pipeline compare what a write has left with the reference."""
        return self._ask("checker", _CHECKER, "check", operation)

    def renew(self, contender: Contender) -> None:
        """End a contender's process; the next operation gets a new one."""
        self._end(contender.name)

    def _ask(self, name: str, contender: Contender, action: Action, operation: Operation) -> Reply:
        worker = self._workers.get(name)
        if worker is None:
            worker = self._workers[name] = _Worker(contender)
        if worker.absence is not None:
            return worker.absence
        reply = worker.ask((action, operation), self._limit_s)
        if reply is None:
            self._end(name)
            return Reply({}, problem=f"over {self._limit_s:g} s")
        if not worker.process.is_alive():
            self._end(name)
        return reply

    def _end(self, name: str) -> None:
        worker = self._workers.pop(name, None)
        if worker is not None:
            worker.end()


class _Worker:
    """A process and the pipe to it.

    Parameters
    ----------
    contender
        Whose process it is.

    Attributes
    ----------
    absence
        The answer to everything if the contender cannot take part, else ``None``.
    """

    def __init__(self, contender: Contender) -> None:
        self.connection, theirs = _SPAWN.Pipe()
        self.process = _SPAWN.Process(target=serve, args=(theirs, contender), daemon=True, name=contender.name)
        self.process.start()
        theirs.close()
        hello = self._receive(_START_S) or Reply({}, problem=f"its process did not start in {_START_S:g} s")
        self.absence = hello if hello.problem else None

    def ask(self, request: tuple[Action, Operation], limit_s: float) -> Reply | None:
        """Return the answer, or ``None`` if there is none within the limit."""
        with suppress(OSError):
            self.connection.send(request)
        return self._receive(limit_s)

    def _receive(self, limit_s: float) -> Reply | None:
        try:
            if not self.connection.poll(limit_s):
                return None
            reply: Reply = self.connection.recv()
        except (EOFError, OSError):
            self.process.join(_FAREWELL_S)
            return Reply({}, problem=f"its process died (exit code {self.process.exitcode})")
        return reply

    def end(self) -> None:
        """Kill it: a worker that is asked to stop may still be busy with a read."""
        self.connection.close()
        self.process.kill()
        self.process.join()


def run(fleet: Fleet, cases: Iterable[Case], rounds: int, budget_s: float, rng: random.Random) -> Iterator[list[Cell]]:
    """Run the cases one after another, all contenders of each interleaved.

    Parameters
    ----------
    fleet
        The contenders' processes.
    cases
        Consumed lazily: whatever a case needs is there only until the next is taken.
    rounds
        Timed samples per contender and case, unless the case or the budget wants fewer.
    budget_s
        Seconds that a contender may spend on the timed samples of a case; one sample is
        always taken, and one that exceeds it is the warm-up itself.
    rng
        Draws the order of the contenders in each round.

    Yields
    ------
    :
        The cells of each case, in the order of the contenders.
    """
    for case in cases:
        cells = [
            Cell(case, contender)
            for contender in fleet.contenders
            if not contender.scenarios or case.scenario in contender.scenarios
        ]
        wanted = dict.fromkeys(range(len(cells)), min(rounds, case.rounds))
        for number in range(min(rounds, case.rounds) + 1):
            order = [at for at, most in wanted.items() if number <= most]
            rng.shuffle(order)
            for at in order:
                sample = _sample(fleet, cells[at], number)
                if number == 0:
                    wanted[at] = _rounds(cells[at], sample, wanted[at], budget_s)
                elif sample is not None:
                    cells[at].samples.append(sample)
        _tell(cells)
        yield cells


def _sample(fleet: Fleet, cell: Cell, number: int) -> Sample | None:
    """Do the case once; return the figures, or ``None`` with the reason in the cell."""
    case, contender = cell.case, cell.contender
    if case.fresh:
        fleet.renew(contender)
    case.before(contender.name, number)
    operation = case.operation(contender.name, number)
    reply = fleet.ask(contender, "open", operation)
    sample: Sample = {}
    if not reply.problem:
        with case.watch() as seen:
            action: Action = "verify" if number == 0 else "measure"
            reply = fleet.ask(contender, action, operation)
            seen.update(reply.sample)
        sample = seen
    if case.fresh:
        fleet.renew(contender)
    problem = reply.problem
    if not problem and number == 0 and operation.verb == "write" and not contender.is_floor:
        problem = fleet.check(operation).problem
    cell.note = cell.note or reply.note
    if problem:
        cell.problem = cell.problem or problem
        return None
    return sample


def _rounds(cell: Cell, warm_up: Sample | None, wanted: int, budget_s: float) -> int:
    """Return how many timed rounds follow the warm-up, which may itself be the only one."""
    if warm_up is None:
        return 0
    if cell.case.fresh:
        cell.samples.append(warm_up)
        wanted -= 1
    elif warm_up["wall_s"] > budget_s:
        cell.samples.append(warm_up)
        return 0
    return min(wanted, max(1, int(budget_s / max(warm_up["wall_s"], 1e-9))))


def _tell(cells: list[Cell]) -> None:
    """Show progress, one line per case."""
    case = cells[0].case
    times = "  ".join(
        f"{cell.contender.name} {statistics.median(s['wall_s'] for s in cell.samples):.3g}"
        if cell.samples
        else f"{cell.contender.name} n/a"
        for cell in cells
    )
    latency = f" +{case.latency_ms:g} ms" if case.latency_ms else ""
    print(
        f"{case.scenario} · {case.layout} · {case.name}{latency}: {times} s",
        file=sys.stderr,
        flush=True,
    )
