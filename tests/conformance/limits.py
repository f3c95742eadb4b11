"""Quotas on sizes, names and histories."""

from typing import Any

from tests.conformance.callbacks import waiting
from tests.conformance.probe import probe
from tests.conformance.site import PASS, Site, caught, distributed, mapped

GUIDE = "https://docs.aws.amazon.com/step-functions/latest/dg"
API = "https://docs.aws.amazon.com/step-functions/latest/apireference"
QUOTAS = f"{GUIDE}/service-quotas.html"
ERRORS = f"{GUIDE}/concepts-error-handling.html"
HISTORY = f"{GUIDE}/bp-history-limit.html"
KIB_256 = 262_144
EVENTS = 25_000


def verdict(site: Site, call: Any, **arguments: Any) -> str:
    """Whether a call is refused, by whatever error."""
    return "accepted" if site.refused(call, **arguments) == "accepted" else "refused"


def text(size: int) -> str:
    """A JSON text of so many bytes."""
    return '"' + "x" * (size - 2) + '"'


@probe(QUOTAS, ["accepted", "refused"], lesson=True)
def execution_input_256_kib(site: Site) -> Any:
    """The input of an execution is at most 256 KiB: one byte more is refused."""
    machine = site.machine(PASS)
    return [
        verdict(site, site.sfn.start_execution, stateMachineArn=machine, input=text(size))
        for size in (KIB_256, KIB_256 + 1)
    ]


@probe(f"{API}/API_SendTaskSuccess.html", ["refused", "accepted"], lesson=True)
def callback_output_256_kib(site: Site) -> Any:
    """The output of SendTaskSuccess is at most 262,144 characters long: one more is refused."""
    _, token = waiting(site)
    return [
        verdict(site, site.sfn.send_task_success, taskToken=token, output=text(size))
        for size in (KIB_256 + 1, KIB_256)
    ]


GROW = {"Type": "Pass", "Parameters": {"a.$": "$", "b.$": "$"}, "End": True}


@probe(ERRORS, "FAILED States.DataLimitExceeded", lesson=True)
def state_output_256_kib(site: Site) -> Any:
    """A state whose output is over 256 KiB fails with States.DataLimitExceeded."""
    seen = site.outcome({"Grow": GROW}, "x" * 200_000)
    return seen if isinstance(seen, str) else "SUCCEEDED"


@probe(ERRORS, "FAILED States.DataLimitExceeded")
def data_limit_not_caught_by_all(site: Site) -> Any:
    """States.ALL does not catch States.DataLimitExceeded."""
    each = {"Do": {"Type": "Pass", "Parameters": {"v": "x" * 1000}, "End": True}}
    seen = site.outcome(caught(mapped(each, MaxConcurrency=40)), list(range(300)))
    return seen if isinstance(seen, str) else "caught, or no error"


@probe(ERRORS, "FAILED States.DataLimitExceeded", lesson=True)
def map_output_256_kib(site: Site) -> Any:
    """The results of a Distributed Map without ResultWriter together may not pass 256 KiB."""
    each = {"Do": {"Type": "Pass", "Parameters": {"v": "x" * 20_000}, "End": True}}
    seen = site.outcome({"Each": distributed(each)}, list(range(15)))
    return seen if isinstance(seen, str) else "SUCCEEDED"


@probe(HISTORY, ["FAILED", True], lesson=True, seconds=480)
def history_25_000_events(site: Site) -> Any:
    """The history of a Standard execution holds 25,000 events: when it is full the execution fails."""
    each = {f"P{n}": {"Type": "Pass", "Next": f"P{n + 1}"} for n in range(9)} | {
        "P9": {"Type": "Pass", "End": True}
    }
    states = {
        "Each": {**mapped(each, MaxConcurrency=40), "ResultPath": None, "Next": "Again"},
        "Again": {**mapped(each, MaxConcurrency=40), "ResultPath": None},
    }
    states["Each"].pop("End")
    execution = site.start(site.machine(states), list(range(650)))
    status = site.end(execution, seconds=450)["status"]
    return [status, len(site.events(execution, maxResults=1000)) <= EVENTS]


@probe(f"{API}/API_CreateStateMachine.html", ["accepted", "refused"])
def name_80_characters(site: Site) -> Any:
    """The name of a state machine, like that of an execution, has at most 80 characters."""
    machine = site.machine(PASS)
    return [
        verdict(site, site.sfn.start_execution, stateMachineArn=machine, name="n" * length)
        for length in (80, 81)
    ]
