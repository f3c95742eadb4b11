"""`lab site`."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from helpers import notebooks
from helpers.commands.places import Place
from helpers.files import RUNS


def site(
    out: Annotated[Path | None, typer.Option(help="An empty folder; default runs/site-<time>.")] = None,
    run: Annotated[
        Path | None,
        typer.Option(help="The folder of a `lab run` to show; without it, all is executed first."),
    ] = None,
) -> None:
    """Build the course as a static site; exit 1 if a notebook failed or a link leads nowhere.

    Every notebook with its figures, the tables of docs/, the workflows' guides and the API reference. It
    needs no network: open index.html, or publish the folder.

    Example: ./lab site --run runs/20261126T010000Z
    """
    from helpers.site import build  # a second to import, which no other command needs

    now = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}"
    folder = out or RUNS / f"site-{now}"
    if run is None:
        run = RUNS / now
        with Place().shared(run) as connected:
            given = {"engine": Place().name}
            typer.echo(f"engine {given['engine']} at {connected.endpoint_url}, results in {run}")
            notebooks.run(notebooks.discover(), run, given, progress=True)
    built = build(run, folder)
    typer.echo(
        f"{built.checked.pages} pages, {len(built.checked.external)} addresses elsewhere, "
        f"{len(built.checked.dead)} dead links"
    )
    for sentence in (*built.failed, *built.checked.dead):
        typer.echo(sentence, err=True)
    typer.echo(f"see {folder / 'index.html'}")
    if built.failed or built.checked.dead:
        raise typer.Exit(1)
