"""Faults of the network: between our clients or workers and the engine."""

from __future__ import annotations

from dataclasses import replace

from helpers import Experiment, Trace, checks, live, stack
from helpers.wire import Fault, Wire
from tests.faults.trial import Damage, Place, damage, fault

FEW = Experiment(
    items=40,
    siphon_share=0.5,
    worker_concurrency=4,
    consumer="fleet",
    direct_seconds=0.02,
    limited_seconds=0.05,
    function_timeout_seconds=3,
    visibility_timeout_seconds=3,
    max_receive_count=50,
    task_timeout_seconds=120,
)
"""Its fleet's workers share the wire; what a lost delivery hides is back after three seconds."""


def unharmed(trace: Trace) -> Damage:
    """The damage to a trace whose items all succeeded, and that obeys all laws but for the sampled depth.

    A worker that gives its answer again, or a call that sent a message twice, keeps more in the queue than
    the attempts tell of.
    """
    checks.verify(replace(trace, samples=trace.samples.head(0)))
    assert set(trace.items["outcome"]) == {"succeeded"}
    return damage(trace)


def run(place: Place, *faults: Fault) -> Damage:
    """One run whose clients and fleet call through the faults; its laws hold."""
    with Wire(place.engine, *faults) as wire:
        trace = wire.engine.run(FEW, progress=False)
        assert len(wire.fired()) > 0
    return unharmed(trace)


@fault("a proxy refuses 20 % of all calls of clients and fleet by each service's throttling code")
def wire_throttled(place: Place) -> Damage:
    """Calls are made again with backoff; every item is answered once, and all laws hold."""
    return run(place, Fault("throttled", 0.2))


@fault("a proxy answers 10 % of all calls with status 500 and delays 20 % by 0.3 s")
def wire_failed_and_slow(place: Place) -> Damage:
    """Calls are made again; every item is answered once, and all laws hold."""
    return run(place, Fault("failed", 0.1), Fault("slow", 0.2, seconds=0.3))


@fault("a proxy cuts 5 % of all connections before the engine sees the call")
def wire_reset_5_percent(place: Place) -> Damage:
    """Calls are made again; every item is answered once, and all laws hold."""
    return run(place, Fault("reset", 0.05))


@fault("a proxy cuts 30 % of all connections before the engine sees the call")
def wire_reset_30_percent(place: Place) -> Damage:
    """Calls are made again; every item is answered once, and all laws hold."""
    return run(place, Fault("reset", 0.3))


@fault("a proxy cuts 5 % of all connections after the engine did what it was asked")
def wire_unanswered(place: Place) -> Damage:
    """A delivery that was lost comes again; what was done twice counts once, and all laws hold."""
    return run(place, Fault("unanswered", 0.05))


@fault("a proxy cuts off half of the answers to CreateStack, UpdateStack, DeleteStack, StartExecution")
def wire_unanswered_changes(place: Place) -> Damage:
    """A second try finds it done already: one stack, one execution for a run, and no error."""
    changes = [
        *(
            Fault("unanswered", 0.5, "cloudformation", f"{what}Stack")
            for what in ("Create", "Update", "Delete")
        ),
        Fault("unanswered", 0.5, "stepfunctions", "StartExecution"),
    ]
    found = Damage(0)
    room = {"function_timeout_seconds": 20, "visibility_timeout_seconds": 20}
    few = replace(FEW, consumer="lambda", items=20, **room)
    with Wire(place.engine, *changes) as wire, wire.engine.bench() as run_next:
        for workers in (2, 3, 4):
            trace = run_next(replace(few, worker_concurrency=workers), progress=False)
            found += unharmed(trace)
        machines = [name for name in stack.deployed(place.engine) if "combined" in name]
        assert len(machines) == 1
    return found


@fault("a proxy throttles 50 % and leaves unanswered 10 % of the SendTaskSuccess of a Lambda worker")
def wire_answers(place: Place) -> Damage:
    """The worker's retries bring every answer home; one that was taken unheard counts, once."""
    few = replace(FEW, consumer="lambda", function_timeout_seconds=20, visibility_timeout_seconds=20)
    troubles = [
        Fault("throttled", 0.5, "stepfunctions", "SendTaskSuccess"),
        Fault("unanswered", 0.1, "stepfunctions", "SendTaskSuccess"),
    ]
    with (
        stack.deploy(place.engine, "combined", stack.parameters(few)) as deployed,
        Wire(place.engine, *troubles) as wire,
    ):
        wire.put_before(deployed)
        trace = live.run(deployed, few, progress=False)
        assert len(wire.fired()) > 0
    return unharmed(trace)


@fault("a proxy cuts off 20 % of the answers to SendMessageBatch, so that messages are sent twice")
def wire_doubled_messages(place: Place) -> Damage:
    """A message sent twice is worked on twice and counted once."""
    few = replace(FEW, items=200, siphon_share=1.0, limited_seconds=0.02)
    with (
        Wire(place.engine, Fault("unanswered", 0.2, "sqs", "SendMessageBatch")) as wire,
        stack.deploy(wire.engine, "sqs_limited", stack.parameters(few, "sqs_limited")) as deployed,
    ):
        trace = live.burst(deployed, few, progress=False)
    return unharmed(trace)
