"""`lab deploy` and `lab destroy`."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Annotated, TypeVar

import typer

from helpers import budget, stack
from helpers.commands.given import Assignments, assigned
from helpers.commands.places import Place, placed
from helpers.engines import Engine
from helpers.errors import LabError, StackError

T = TypeVar("T")
NUMBER = re.compile("[0-9]{1,18}")
"""What a Number of a template looks like."""


@placed
def deploy(
    place: Place,
    workflow: Annotated[
        str, typer.Argument(help="A folder of infra/.", autocompletion=stack.workflows)
    ] = "combined",
    param: Assignments = None,
) -> None:
    """Deploy a workflow on an engine that is already running, and print its outputs.

    On an account, what is executed there is not part of the budget.

    Example: ./lab deploy combined -p MaximumConcurrency=20
    """
    values: dict[str, stack.Value] = {
        key: int(value) if NUMBER.fullmatch(value) else value for key, value in assigned(param).items()
    }
    stack.check(workflow, values)
    with place.running() as connected:
        connected.spend(f"{workflow}, deployed and idle for a day", budget.of_idle_day())
        deployed = stack.deploy(connected, workflow, values)
    typer.echo(deployed.name)
    for key, value in deployed.outputs.items():
        typer.echo(f"  {key}: {value}")


@placed
def destroy(
    place: Place,
    names: Annotated[list[str] | None, typer.Argument(help="Stacks of the lab.")] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="All of the lab's stacks, and what it left outside of stacks.")
    ] = False,
) -> None:
    """Destroy stacks of the lab on a running engine, with everything in them; exit 1 if something stays.

    --all takes whatever any run left, whoever started it: what has the tag project=concurrency-lab, and a
    name or a stack that begins with concurrency-lab-. It lists what it found and asks first, or with --yes
    does not. What only has the tag is named, and left.

    Example: ./lab destroy --all
    """
    with place.free().running() as connected:
        there = stack.deployed(connected)
        listed = ", ".join(there) or "none"
        if bool(names) == everything:
            raise LabError(f"destroy what? give names or --all; the lab's stacks here are {listed}")
        if unknown := [name for name in names or [] if name not in there]:
            raise LabError(f"stack {unknown[0]!r}: not one of the lab's here, which are {listed}")
        left = []

        def look(how: Callable[[Engine], list[T]]) -> list[T]:
            try:
                return how(connected)
            except StackError as error:
                left.append("what is in no stack")
                typer.echo(str(error), err=True)
                return []

        def remove(what: str, how: Callable[[Engine, str], None], done: str) -> None:
            try:
                how(connected, what)
                typer.echo(f"{done} {what}")
            except StackError as error:
                left.append(what)
                typer.echo(str(error), err=True)

        tagged = look(stack.tagged) if everything else []
        if everything:
            _confirm(there, tagged, place.yes)
        for name in names or there:
            remove(name, stack.destroy, "destroyed")
        # What was agreed to, and no more: a resource that a destroyed stack did not take along is among it.
        agreed = {one.arn for one in tagged if not one.foreign}
        for arn in look(stack.orphans) if agreed else []:
            if arn in agreed:
                remove(arn, stack.remove, "removed")
    if left:
        typer.echo(f"not removed: {', '.join(dict.fromkeys(left))}", err=True)
        raise typer.Exit(1)
    if everything and not there:
        typer.echo("no stack is there")


def _confirm(there: list[str], tagged: list[stack.Tagged], yes: bool) -> None:
    """List what was found, and ask whether it may be removed.

    Args:
        there: The names of the lab's stacks.
        tagged: What has the lab's tag, in stacks and outside.
        yes: Do not ask.

    Raises:
        LabError: The answer is no, or there is nobody to ask.
    """
    for name in there:
        typer.echo(f"found: stack {name}, with everything in it")
    alone = [one.arn for one in tagged if not one.foreign and not one.stack]
    for arn in alone:
        typer.echo(f"found: {arn}")
    for one in tagged:
        if one.foreign:
            typer.echo(f"left: {one.arn} because {one.foreign}")
    if yes or not (there or alone):
        return
    if not sys.stdin.isatty():
        raise LabError("destroy --all: is not confirmed, and nothing was removed; give --yes, or a terminal")
    if not typer.confirm("Remove all that was found?", err=True):
        raise LabError("destroy --all: is not confirmed, and nothing was removed")
