"""`lab compare`."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from helpers.commands.places import Place, placed
from helpers.experiment import Experiment
from helpers.files import RUNS
from helpers.patterns import comparison, registry, showing


@placed
def compare(
    place: Place,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help=f"Patterns, of {', '.join(registry.PATTERNS)}; default all.",
            autocompletion=lambda: list(registry.PATTERNS),
        ),
    ] = None,
    items: Annotated[int, typer.Option("--items", help="Items, the same for each pattern.")] = 100,
    task_seconds: Annotated[float, typer.Option(help="What the work on one item takes (s).")] = 0.5,
    concurrency: Annotated[int, typer.Option(help="Items that may be worked on at once.")] = 10,
    repetitions: Annotated[int, typer.Option(help="Runs by each pattern, in turn.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Where to put the results; default runs/compare-<time>.")
    ] = None,
) -> None:
    """Do the same work by several patterns, measured, predicted and broken on purpose: which, when?

    Prints the decision table and writes comparison.json, comparison.csv, patterns.md and patterns.png. Exit 1
    if a run breaks a law, such as the limit.

    Example: ./lab compare inline_map callback --items 200 --task-seconds 0.2 --concurrency 20
    """
    patterns = registry.named(names or [])
    experiment = Experiment(
        items, siphon_share=1.0, limited_seconds=task_seconds, worker_concurrency=concurrency
    )
    comparison.check(experiment, patterns, repetitions)
    broken = len(comparison.FAULTS)
    planned = f"{len(patterns)} patterns, {repetitions} runs each, a small one and {broken} broken ones"
    place.announce(planned, comparison.usd(experiment, patterns, repetitions))
    folder = out or RUNS / f"compare-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
    with place.shared(folder) as connected:
        found = comparison.compare(connected, patterns, experiment, repetitions)
    showing.save(found, folder)
    typer.echo(json.dumps(found.to_dict()) if as_json else f"{showing.text(found)}\n\nsee {folder}")
    laws = [f"{row['title']}: {row['law']}" for row in found.table.to_dict("records") if row["law"]]
    for sentence in laws:
        typer.echo(sentence, err=True)
    if laws:
        raise typer.Exit(1)
