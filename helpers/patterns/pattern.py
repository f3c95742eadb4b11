"""What a pattern is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from helpers.engines.base import Engine
from helpers.experiment import Experiment
from helpers.trace import Trace


@dataclass(frozen=True)
class Pattern:
    """One way to do the work.

    name: as the command line takes it. title: as the table shows it. workflow: its folder in infra/.
    run: deploys it, does the experiment's work on the engine, measures, destroys. needs: the behaviours that
    an engine must show for it (names of probes, see `Engine.shows`).
    usage: what the work uses on AWS, planned; the keys are fields of `cost.Prices`.
    """

    name: str
    title: str
    workflow: str
    run: Callable[[Engine, Experiment], Trace]
    usage: Callable[[Experiment], dict[str, float]]
    needs: tuple[str, ...] = ()
