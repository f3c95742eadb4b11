"""`lab graph`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from helpers import graph, stack
from helpers.trace import Trace


def draw(
    workflow: Annotated[
        str, typer.Argument(help="A folder of infra/.", autocompletion=stack.workflows)
    ] = "combined",
    machine: Annotated[
        str, typer.Option(help="The output that names the state machine.")
    ] = "StateMachineArn",
    coloured_by: Annotated[
        Path | None, typer.Option(help="A trace of the workflow: numbers, and colour by share of the time.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help=".svg or .png; default WORKFLOW.svg.")] = None,
) -> None:
    """Draw a workflow's state machine as a graph.

    Example: ./lab graph combined --coloured-by trace.parquet --out combined.svg
    """
    trace = Trace.load(coloured_by) if coloured_by else None
    typer.echo(graph(workflow, machine, trace).save(out or Path(f"{workflow}.svg")))
