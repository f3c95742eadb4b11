"""`lab deploy` and `lab destroy`."""

from __future__ import annotations

from typing import Annotated

import typer

from helpers import stack
from helpers.commands.given import Assignments, assigned
from helpers.commands.places import EngineName, running
from helpers.errors import LabError


def deploy(
    workflow: Annotated[str, typer.Argument(help="A folder of infra/.")] = "combined",
    engine: EngineName = "embedded",
    param: Assignments = None,
) -> None:
    """Deploy a workflow on an engine that is already running, and print its outputs.

    Example: ./lab deploy combined -p MaximumConcurrency=20
    """
    values: dict[str, stack.Value] = {
        key: int(value) if value.isdigit() else value for key, value in assigned(param).items()
    }
    stack.check(workflow, values)
    with running(engine) as connected:
        deployed = stack.deploy(connected, workflow, values)
    typer.echo(deployed.name)
    for key, value in deployed.outputs.items():
        typer.echo(f"  {key}: {value}")


def destroy(
    names: Annotated[list[str] | None, typer.Argument(help="Stacks; default: all of the lab's.")] = None,
    engine: EngineName = "embedded",
) -> None:
    """Destroy the lab's stacks on a running engine, with everything in them.

    Example: ./lab destroy
    """
    with running(engine) as connected:
        there = stack.deployed(connected)
        for name in names or there:
            if name not in there:
                raise LabError(
                    f"stack {name!r}: not one of the lab's here, which are {', '.join(there) or 'none'}"
                )
            stack.destroy(connected, name)
            typer.echo(f"destroyed {name}")
    if not (names or there):
        typer.echo("nothing is deployed")
