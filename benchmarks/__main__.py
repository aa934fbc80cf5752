"""The command line: ``python -m benchmarks [SCENARIO ...]``, from the repository's root."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import verdicts
from benchmarks.cases import Plan
from benchmarks.contenders import CONTENDERS, TUNED, before
from benchmarks.pictures import pictures
from benchmarks.report import heading, machine, write_json
from benchmarks.runner import Fleet, run
from benchmarks.scenarios.annbatch import annbatch
from benchmarks.scenarios.cancel import cancel
from benchmarks.scenarios.codecs import codecs
from benchmarks.scenarios.fairness import fairness
from benchmarks.scenarios.local import local
from benchmarks.scenarios.loop import loop
from benchmarks.scenarios.memory import memory
from benchmarks.scenarios.opens import opens
from benchmarks.scenarios.remote import remote
from benchmarks.scenarios.s3 import s3
from benchmarks.scenarios.slabs import slabs
from benchmarks.scenarios.small import small
from benchmarks.tables import tables

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.cases import Scenario

SCENARIOS: dict[str, Scenario] = {
    "local": local,
    "codecs": codecs,
    "slabs": slabs,
    "small": small,
    "annbatch": annbatch,
    "opens": opens,
    "remote": remote,
    "s3": s3,
    "loop": loop,
    "fairness": fairness,
    "cancel": cancel,
    "memory": memory,
}
KNOWN = CONTENDERS | TUNED


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; print the tables; store them with JSON and pictures."""
    options = _parse(arguments)
    scenarios = list(SCENARIOS) if "all" in options.scenarios else options.scenarios
    results: dict[str, Any] = {
        "machine": machine(),
        "arguments": {
            "scenarios": scenarios,
            **{name: getattr(options, name) for name in ("quick", "full", "rounds", "limit", "seed", "contenders")},
        },
        "cells": [],
    }
    stamp = results["machine"]["date"][:16].replace(":", "")
    out = options.out / f"{stamp}-{'-'.join(options.scenarios)}"
    out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        data = options.data or stack.enter_context(tempfile.TemporaryDirectory(prefix="zarrs-async-benchmarks-"))
        plan = Plan(str(Path(data).resolve()), options.quick, options.full, options.rounds)
        contenders = [KNOWN[name] for name in options.contenders]
        contenders += [before(options.before)] if options.before else []
        fleet = stack.enter_context(Fleet(contenders, options.limit))
        rng = random.Random(options.seed)
        for name in scenarios:
            for cells in run(fleet, SCENARIOS[name](plan), options.rounds, options.limit / 4, rng):
                results["cells"] += [cell.as_json() for cell in cells]
                results["verdicts"] = verdicts.as_json(verdicts.judge(results["cells"]))
                # After each case, so that an interrupted run leaves what it had.
                write_json(out / "results.json", results)
    verdict = verdicts.as_markdown(verdicts.judge(results["cells"]))
    text = "\n".join(part for part in (heading(results), verdict, tables(results["cells"])) if part)
    (out / "tables.md").write_text(text, encoding="utf-8")
    pictures(results["cells"], out)
    print(text)
    print(f"In {out}: {', '.join(sorted(path.name for path in out.iterdir()))}")
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument(
        "scenarios",
        nargs="*",
        default=["all"],
        metavar="SCENARIO",
        help=f"any of {', '.join(SCENARIOS)}, or all (the default)",
    )
    parser.add_argument("--quick", action="store_true", help="small data, about four minutes")
    parser.add_argument("--full", action="store_true", help="also what needs 12 GiB of memory and 6 GiB of disk")
    parser.add_argument("--rounds", type=int, help="timed samples per contender and case")
    parser.add_argument(
        "--contenders",
        type=lambda text: text.split(","),
        default=list(CONTENDERS),
        help=f"comma-separated, of {', '.join(KNOWN)}",
    )
    parser.add_argument("--before", type=Path, help="a checkout, built, whose pipeline takes part as well")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="for results")
    parser.add_argument("--data", type=Path, help="where data sets are kept for the next run")
    parser.add_argument(
        "--limit",
        type=float,
        help="seconds until a sample is given up; a quarter of it is for all samples of a cell",
    )
    parser.add_argument("--seed", type=int, default=0, help="for the order in each round")
    options = parser.parse_args(arguments)
    for name in set(options.scenarios) - {*SCENARIOS, "all"}:
        parser.error(f"no such scenario: {name}")
    for name in set(options.contenders) - set(KNOWN):
        parser.error(f"no such contender: {name}")
    options.rounds = options.rounds or (2 if options.quick else 5)
    options.limit = options.limit or (4.0 if options.quick else 60.0)
    return options


if __name__ == "__main__":
    sys.exit(main())
