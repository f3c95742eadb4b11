"""Execution histories, from which the lab reads its traces."""

from collections import Counter
from typing import Any

from tests.conformance.callbacks import token, waiting
from tests.conformance.probe import probe
from tests.conformance.site import FAIL, PASS, Site, callback, distributed, mapped

GUIDE = "https://docs.aws.amazon.com/step-functions/latest/dg"
API = "https://docs.aws.amazon.com/step-functions/latest/apireference"
EVENT = f"{API}/API_HistoryEvent.html"
GET = f"{API}/API_GetExecutionHistory.html"
RUN = f"{GUIDE}/concepts-examine-map-run.html"


def ran(site: Site, states: dict[str, Any], data: Any = None) -> str:
    """An execution that has ended."""
    execution = site.start(site.machine(states), data)
    site.end(execution)
    return execution


def types(events: list[dict[str, Any]]) -> list[str]:
    """The types of events, in their order."""
    return [event["type"] for event in events]


@probe(
    EVENT,
    [
        "ExecutionStarted",
        "TaskStateEntered",
        "TaskScheduled",
        "TaskStarted",
        "TaskSubmitted",
        "TaskSucceeded",
        "TaskStateExited",
        "ExecutionSucceeded",
    ],
    lesson=True,
)
def callback_events(site: Site) -> Any:
    """A callback task leaves TaskScheduled, TaskStarted, TaskSubmitted (message sent) and TaskSucceeded."""
    url = site.queue()
    execution = site.start(site.machine({"Do": callback(url)}))
    site.answer(token(site, url))
    site.end(execution)
    return types(site.events(execution))


@probe(EVENT, ["sqs", "sendMessage.waitForTaskToken", True, True], lesson=True)
def callback_event_details(site: Site) -> Any:
    """TaskScheduled says resourceType sqs and resource sendMessage.waitForTaskToken; ids count from 1, each
    names the one before, and times never go back."""
    url = site.queue()
    execution = site.start(site.machine({"Do": callback(url)}))
    site.answer(token(site, url))
    site.end(execution)
    events = site.events(execution)
    details = next(e["taskScheduledEventDetails"] for e in events if e["type"] == "TaskScheduled")
    times = [event["timestamp"] for event in events]
    chained = [e["id"] for e in events] == list(range(1, len(events) + 1)) and all(
        e["previousEventId"] < e["id"] for e in events
    )
    return [details["resourceType"], details["resource"], chained, times == sorted(times)]


@probe(EVENT, ["TaskTimedOut", "States.Timeout"], lesson=True)
def timeout_event(site: Site) -> Any:
    """A callback task that times out leaves TaskTimedOut with States.Timeout."""
    execution, _ = waiting(site, TimeoutSeconds=1)
    site.end(execution)
    events = [e for e in site.events(execution) if e["type"].endswith("TimedOut")]
    return [events[0]["type"], events[0]["taskTimedOutEventDetails"]["error"]] if events else "no such event"


@probe(f"{API}/API_SendTaskHeartbeat.html", True)
def heartbeat_leaves_no_event(site: Site) -> Any:
    """SendTaskHeartbeat does not in itself create an event."""
    execution, mine = waiting(site, HeartbeatSeconds=30)
    before = types(site.events(execution))
    site.sfn.send_task_heartbeat(taskToken=mine)
    return types(site.events(execution)) == before


@probe(
    EVENT,
    {"MapStateStarted": 1, "MapIterationStarted": 3, "MapIterationSucceeded": 3, "MapStateSucceeded": 1},
    lesson=True,
)
def inline_map_events(site: Site) -> Any:
    """An inline Map leaves MapStateStarted, MapIterationStarted and MapIterationSucceeded for each item, and
    MapStateSucceeded in its execution's history."""
    execution = ran(site, {"Each": mapped(PASS)}, [1, 2, 3])
    counts = Counter(types(site.events(execution)))
    wanted = ("MapStateStarted", "MapIterationStarted", "MapIterationSucceeded", "MapStateSucceeded")
    return {name: counts[name] for name in wanted}


@probe(EVENT, ["Each", [0, 1, 2]], lesson=True)
def inline_map_event_details(site: Site) -> Any:
    """MapIterationStarted names the Map and the item's index."""
    execution = ran(site, {"Each": mapped(PASS)}, [1, 2, 3])
    details = [e.get("mapIterationStartedEventDetails", {}) for e in site.events(execution)]
    started = [d for d in details if d]
    return [started[0]["name"], sorted(d["index"] for d in started)] if started else "no such event"


@probe(EVENT, [1, 1])
def inline_map_failure_events(site: Site) -> Any:
    """A failed iteration leaves MapIterationFailed, and the Map MapStateFailed."""
    execution = ran(site, {"Each": mapped(FAIL)}, [1])
    counts = Counter(types(site.events(execution)))
    return [counts["MapIterationFailed"], counts["MapStateFailed"]]


@probe(
    RUN,
    [
        "ExecutionStarted",
        "MapStateEntered",
        "MapStateStarted",
        "MapRunStarted",
        "MapRunSucceeded",
        "MapStateSucceeded",
        "MapStateExited",
        "ExecutionSucceeded",
    ],
    lesson=True,
)
def map_run_events(site: Site) -> Any:
    """A Distributed Map leaves MapRunStarted and MapRunSucceeded, none of its children's events."""
    execution = ran(site, {"Each": distributed(PASS)}, [1, 2, 3])
    return types(site.events(execution))


@probe(EVENT, True, lesson=True)
def map_run_started_names_run(site: Site) -> Any:
    """MapRunStarted holds the ARN of the Map Run."""
    execution = ran(site, {"Each": distributed(PASS)}, [1])
    started = [e["mapRunStartedEventDetails"] for e in site.events(execution) if e["type"] == "MapRunStarted"]
    return bool(started) and started[0]["mapRunArn"] == site.map_run(execution)


@probe(EVENT, 1, lesson=True)
def map_run_failed_event(site: Site) -> Any:
    """A Map Run past its threshold leaves MapRunFailed."""
    execution = ran(site, {"Each": distributed(FAIL)}, [1])
    return types(site.events(execution)).count("MapRunFailed")


@probe(
    f"{GUIDE}/state-map-distributed.html",
    ["ExecutionStarted", "PassStateEntered", "PassStateExited", "ExecutionSucceeded"],
    lesson=True,
)
def child_events(site: Site) -> Any:
    """Each child execution has a history of its own."""
    execution = ran(site, {"Each": distributed(PASS)}, [1])
    children = site.children(site.map_run(execution))
    return types(site.events(children[0]["executionArn"])) if children else "no child listed"


@probe(GET, True)
def reverse_order(site: Site) -> Any:
    """GetExecutionHistory with reverseOrder gives the latest event first."""
    execution = ran(site, PASS)
    forward, backward = types(site.events(execution)), types(site.events(execution, reverseOrder=True))
    return backward == forward[::-1]


@probe(GET, [2, True, 4])
def pages(site: Site) -> Any:
    """GetExecutionHistory gives maxResults events and a nextToken for the rest."""
    execution = ran(site, PASS)
    first = site.sfn.get_execution_history(executionArn=execution, maxResults=2)
    return [len(first["events"]), bool(first.get("nextToken")), len(site.events(execution, maxResults=2))]
