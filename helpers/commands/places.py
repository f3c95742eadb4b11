"""Where a command runs: its options, and the engine that they name."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from botocore.exceptions import BotoCoreError, ClientError

from helpers import budget, stack
from helpers.engines import ENGINES, Engine, aws, connect, embedded
from helpers.engines.local import named_endpoint
from helpers.errors import EngineError, StackError
from helpers.files import locked

WHERE = "Where to run"


def engine_names() -> list[str]:
    """What --engine takes."""
    return sorted(ENGINES)


@dataclass(frozen=True)
class Place:
    """Where a command runs. Its fields are options of every command that is `placed`."""

    engine: Annotated[
        str | None,
        typer.Option(
            help=f"One of {', '.join(engine_names())}; default embedded, or endpoint.",
            rich_help_panel=WHERE,
            autocompletion=engine_names,
        ),
    ] = None
    endpoint: Annotated[
        str | None,
        typer.Option(
            help="The URL of an engine that runs already; aws: of a configured endpoint that may get your "
            "credentials.",
            rich_help_panel=WHERE,
        ),
    ] = None
    profile: Annotated[
        str | None, typer.Option(help="aws: a profile of ~/.aws/config.", rich_help_panel=WHERE)
    ] = None
    region: Annotated[
        str | None, typer.Option(help="aws: the region, e.g. us-east-1.", rich_help_panel=WHERE)
    ] = None
    budget: Annotated[
        float | None,
        typer.Option(help="aws: US dollars that may be spent, as estimated.", rich_help_panel=WHERE),
    ] = None
    yes: Annotated[
        bool,
        typer.Option(
            "--yes",
            help="Do not ask: whether this is the account (aws), what to remove (destroy --all).",
            rich_help_panel=WHERE,
        ),
    ] = False

    @property
    def name(self) -> str:
        """The engine's name."""
        return self.engine or ("endpoint" if self.endpoint else embedded.Embedded.name)

    @property
    def paid(self) -> bool:
        """Whether what runs here is paid for."""
        return self.name == aws.Aws.name

    def free(self) -> Place:
        """The same for a command that starts nothing: where a budget is needed, it is 0 unless given."""
        return replace(self, budget=0.0) if self.paid and self.budget is None else self

    def announce(self, what: str, usd: float) -> None:
        """Say what something would cost on AWS; raise BudgetError where it has to be paid and is too much."""
        typer.echo(f"{what}: at most {budget.dollars(usd)} on AWS (us-east-1, no free tier)", err=True)
        if self.paid:
            limit = aws.limit(self.budget)
            budget.afford(what, usd, limit, limit)

    def connect(self) -> Engine:
        """Connect to the engine; ask whether an account, and endpoints configured for it, are the right ones.

        Raises:
            EngineError: Nobody can be asked, or the answer is no.
        """
        engine = connect(
            self.name,
            endpoint=self.endpoint,
            profile=self.profile,
            region=self.region,
            budget_usd=self.budget,
            confirm=_confirm if self.paid and sys.stdin.isatty() else None,
        )
        if engine.budget_usd is not None and not self.yes:
            if not sys.stdin.isatty():
                raise EngineError("the account: is not confirmed; say so in a terminal, or give --yes")
            if not typer.confirm("Is this the account and the region?", err=True):
                raise EngineError(
                    "the account: is not the one, so nothing was done; choose another by --profile"
                )
        return engine

    @contextmanager
    def shared(self, folder: Path, new_ledger: bool = False) -> Iterator[Engine]:
        """The engine, which the processes started in the block find by themselves.

        They share the ledger in the folder, which is this command's until the end. What they leave deployed
        is destroyed then.

        Args:
            folder: Where the ledger lies.
            new_ledger: Whether to begin another one; without, what is noted there counts.

        Raises:
            EngineError: Another command runs in the folder.
        """
        with self.connect() as engine, locked(folder / f".{budget.FILE}.lock") as held:
            if not held:
                raise EngineError(
                    f"{folder}: another command runs there, by whose ledger it spends; wait for its end, or "
                    "choose another folder"
                )
            if new_ledger:
                (folder / budget.FILE).unlink(missing_ok=True)
            given = engine.shared() | {budget.LEDGER: str(folder.resolve() / budget.FILE)}
            given[stack.RUN] = stack.run_id()
            before = {name: os.environ.get(name) for name in given}
            os.environ.update(given)
            try:
                yield engine
            finally:
                for name, value in before.items():
                    if value is None:
                        del os.environ[name]
                    else:
                        os.environ[name] = value
                _clear(engine, given[stack.RUN])

    @contextmanager
    def running(self) -> Iterator[Engine]:
        """An engine that outlives the command: what is deployed on one's own would vanish with it."""
        own = self.name == embedded.Embedded.name and not (self.endpoint or named_endpoint())
        if own and not embedded.Server.kept():
            raise EngineError("no embedded engine is running; start one with `./lab engine start`")
        with self.connect() as engine:
            yield engine


def _confirm(endpoints: str) -> bool:
    """Show the endpoints configured in place of AWS's, and ask whether credentials may go there."""
    typer.echo(f"not AWS's own endpoint: {endpoints}", err=True)
    return typer.confirm("May your AWS credentials go there?", err=True)


def _clear(engine: Engine, run: str) -> None:
    """Destroy what a run has left, and say so."""
    if not engine.endpoint_url:  # the simulated one, where nothing can be deployed
        return
    try:
        for name in stack.deployed(engine, run):
            stack.destroy(engine, name)
            typer.echo(f"destroyed {name}, which was left", err=True)
    except (StackError, ClientError, BotoCoreError) as error:
        typer.echo(
            f"what is left was not removed ({error}); `./lab destroy {engine.flags()}` tells", err=True
        )


def placed(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options of Place in the place of its parameter `place`."""
    hints = get_type_hints(Place, include_extras=True)
    options = [
        inspect.Parameter(
            one.name, inspect.Parameter.KEYWORD_ONLY, default=one.default, annotation=hints[one.name]
        )
        for one in fields(Place)
    ]
    signature = inspect.signature(command, eval_str=True)
    own = [parameter for name, parameter in signature.parameters.items() if name != "place"]

    @functools.wraps(command)
    def with_options(**given: Any) -> None:
        place = Place(**{option.name: given.pop(option.name) for option in options})
        command(place=place, **given)

    with_options.__signature__ = signature.replace(parameters=[*own, *options])  # type: ignore[attr-defined]
    with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in [*own, *options]}
    return with_options
