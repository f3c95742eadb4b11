"""The command: measure an engine, print the table, and store its column."""

from __future__ import annotations

import fnmatch
import sys
from datetime import UTC, datetime
from typing import Annotated

import typer

from helpers.engines import connect
from tests.conformance import report
from tests.conformance.probe import Probe, Result, all_probes, measure

RELEASED = {"embedded": "ministack", "localstack": "localstack"}
"""The engines that the lab can connect to, and what each is made of."""


def main(
    engine: Annotated[
        str, typer.Option(help="Whose column: embedded, ministack, localstack, moto, aws.")
    ] = "embedded",
    endpoint: Annotated[
        str, typer.Option(help="Where it answers; embedded and localstack are found or started.")
    ] = "",
    release: Annotated[str, typer.Option(help="Its release, stored beside the column.")] = "",
    only: Annotated[str, typer.Option(help="Only behaviours that match, such as 'callbacks.*'.")] = "*",
    write: Annotated[bool, typer.Option(help="Store the column, regenerate docs/engines.md.")] = False,
) -> None:
    """Run the probes on an engine. Example: python -m tests.conformance --only 'sqs.*'"""
    probes = [p for p in all_probes() if fnmatch.fnmatch(p.name, only)]
    if write and only != "*":
        raise typer.BadParameter("a column is whole or not stored: leave out --only, or --write")
    if engine == "aws":
        with connect(engine, endpoint=endpoint or None, budget_usd=0) as mine:
            where = f"account {mine.account} in {mine.region}"
            typer.confirm(f"Run on {where}, for less than a US dollar?", abort=True)
            results, release = show(probes, None), mine.region
    elif endpoint:
        results = show(probes, endpoint)
    elif engine in RELEASED:
        with connect(engine) as mine:
            results = show(probes, mine.endpoint_url)
            release = f"{RELEASED[engine]} {mine.versions()[RELEASED[engine]]}, as the lab runs it"
    else:
        raise typer.BadParameter(f"--engine {engine}: say where it answers; add --endpoint URL")
    if write:
        report.store(engine, release, datetime.now(UTC).date().isoformat(), results)


def show(probes: list[Probe], endpoint_url: str | None) -> dict[str, Result]:
    """Run them, print each, return the results by name."""
    results: dict[str, Result] = {}
    for done, (probe, result) in enumerate(measure(probes, endpoint_url), 1):
        results[probe.name] = result
        print(
            f"{done:3}/{len(probes)} {result.state:6} {result.seconds:5.1f} s {probe.name:44} {result.seen}",
            flush=True,
        )
    states = [result.state for result in results.values()]
    print(", ".join(f"{states.count(state)} {state}" for state in ("yes", "no", "absent")), file=sys.stderr)
    return results


typer.run(main)
