"""What a pattern is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from helpers.engines.base import Engine
from helpers.experiment import Experiment
from helpers.trace import Trace


def _singly(experiment: Experiment) -> int:
    return 1


@dataclass(frozen=True)
class Pattern:
    """One way to do the work.

    name: as the command line takes it. title: as the table shows it. workflow: its folder in infra/.
    run: deploys it, does the experiment's work on the engine, measures, destroys. A run that fails raises a
    StackError, whose `trace` is what was measured until then.
    needs: the behaviours that an engine must show for it (names of probes, see `Engine.shows`).
    usage: what the work uses on AWS, planned; the keys are fields of `cost.Prices`.
    machine: the output that names its state machine, where its folder has more than one.
    batch: how many items one call of a worker does, for that experiment.
    simulated: what `simulate` runs in its place, None where the simulator does not model it.
    makespan: its makespan (s) by a simulation of its own, None where it has none.
    """

    name: str
    title: str
    workflow: str
    run: Callable[[Engine, Experiment], Trace]
    usage: Callable[[Experiment], dict[str, float]]
    needs: tuple[str, ...] = ()
    machine: str = "StateMachineArn"
    batch: Callable[[Experiment], int] = _singly
    simulated: Callable[[Experiment], Experiment] | None = None
    makespan: Callable[[Experiment], float] | None = None
