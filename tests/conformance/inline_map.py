"""Maps in Inline mode, and Parallel."""

from typing import Any

from tests.conformance.probe import probe
from tests.conformance.site import FAIL, PASS, Site, callback, caught, mapped, outcome

GUIDE = "https://docs.aws.amazon.com/step-functions/latest/dg"
INLINE = f"{GUIDE}/state-map-inline.html"
PARALLEL = f"{GUIDE}/state-parallel.html"
ERRORS = f"{GUIDE}/concepts-error-handling.html"


def at_once(site: Site, state: Any, url: str, data: Any, expected: int) -> list[Any]:
    """[how many callbacks a Map had out at once, the outcome once all are answered, in the items' order]."""
    execution = site.start(site.machine({"Each": state}), data)
    out = site.take(url, expected, seconds=90)
    peak, answered = len(out), 0
    items = data if isinstance(data, list) else data["items"]
    while out:
        for body in reversed(out):
            site.answer(body["token"], body["input"])
            answered += 1
        out = site.take(url, 1, quiet=0) if answered < len(items) else []
    result = outcome(site.end(execution))
    return [peak, "in order" if result == items else result]


@probe(INLINE, [3, "in order"], lesson=True)
def max_concurrency_3(site: Site) -> Any:
    """MaxConcurrency 3: at most three iterations at once; the results keep the items' order."""
    url = site.queue()
    return at_once(site, mapped({"Do": callback(url)}, MaxConcurrency=3), url, list(range(8)), 3)


@probe(INLINE, [1, "in order"])
def max_concurrency_1(site: Site) -> Any:
    """MaxConcurrency 1 does one item after the other."""
    url = site.queue()
    return at_once(site, mapped({"Do": callback(url)}, MaxConcurrency=1), url, list(range(3)), 1)


@probe(INLINE, [4, "in order"], lesson=True)
def max_concurrency_path(site: Site) -> Any:
    """MaxConcurrencyPath reads the limit from the state's input."""
    url = site.queue()
    state = mapped({"Do": callback(url)}, ItemsPath="$.items", MaxConcurrencyPath="$.limit")
    return at_once(site, state, url, {"items": list(range(12)), "limit": 4}, 4)


@probe(INLINE, [40, "in order"], lesson=True)
def default_is_40(site: Site) -> Any:
    """Without MaxConcurrency a Map in Inline mode runs up to 40 iterations at once."""
    url = site.queue()
    return at_once(site, mapped({"Do": callback(url)}), url, list(range(60)), 40)


@probe(INLINE, [40, "in order"], lesson=True)
def never_above_40(site: Site) -> Any:
    """A Map in Inline mode supports up to 40 concurrent iterations, whatever MaxConcurrency says."""
    url = site.queue()
    return at_once(site, mapped({"Do": callback(url)}, MaxConcurrency=50), url, list(range(60)), 40)


@probe(INLINE, [{"i": 0, "v": "a", "k": 7}, {"i": 1, "v": "b", "k": 7}], lesson=True)
def item_selector(site: Site) -> Any:
    """ItemSelector shapes each iteration's input from $$.Map.Item.Index, $$.Map.Item.Value and the input."""
    select = {"i.$": "$$.Map.Item.Index", "v.$": "$$.Map.Item.Value", "k.$": "$.k"}
    state = mapped(PASS, ItemsPath="$.items", ItemSelector=select)
    return site.outcome({"Each": state}, {"items": ["a", "b"], "k": 7})


@probe(INLINE, [], lesson=True)
def empty_array(site: Site) -> Any:
    """An empty array gives an empty array."""
    return site.outcome({"Each": mapped(PASS)}, [])


def one_fails(url: str) -> dict[str, Any]:
    """States of an iteration: item 0 fails after a second, the others wait for a callback."""
    rule = {"Variable": "$", "NumericEquals": 0, "Next": "Pause"}
    return {
        "Which": {"Type": "Choice", "Choices": [rule], "Default": "Ask"},
        "Ask": callback(url),
        "Pause": {"Type": "Wait", "Seconds": 1, "Next": "Do"},
        **FAIL,
    }


@probe(ERRORS, "FAILED Unwell", lesson=True)
def one_failure_fails_the_map(site: Site) -> Any:
    """One failed iteration fails the Map at once, though others still wait."""
    url = site.queue()
    return site.outcome({"Each": mapped(one_fails(url))}, [1, 2, 0, 3])


@probe(ERRORS, "TaskTimedOut", lesson=True)
def failure_stops_the_others(site: Site) -> Any:
    """When an iteration fails the Map, the others are stopped: their tokens are dead."""
    url = site.queue()
    execution = site.start(site.machine({"Each": mapped(one_fails(url))}), [1, 0])
    body = site.one(url)
    site.end(execution)
    return site.answer(body["token"])


@probe(PARALLEL, "FAILED Unwell", lesson=True)
def parallel_fails_at_once(site: Site) -> Any:
    """One failed branch fails a Parallel at once, and its other branches are stopped."""
    url = site.queue()
    branches = [{"StartAt": "Do", "States": FAIL}, {"StartAt": "Do", "States": {"Do": callback(url)}}]
    return site.outcome({"Both": {"Type": "Parallel", "Branches": branches, "End": True}})


@probe(ERRORS, {"Error": "Unwell", "Cause": "as told"}, lesson=True)
def catch(site: Site) -> Any:
    """A Map's own Catch takes the error of the iteration that failed."""
    return site.outcome(caught(mapped(FAIL), "Unwell"), [1])


@probe(ERRORS, 6)
def retry_repeats_all(site: Site) -> Any:
    """Retry on the Map runs every iteration again."""
    url, retry = site.queue(), [{"ErrorEquals": ["Unwell"], "IntervalSeconds": 1, "MaxAttempts": 1}]
    send = {
        "Type": "Task",
        "Resource": "arn:aws:states:::sqs:sendMessage",
        "Parameters": {"QueueUrl": url, "MessageBody": "1"},
        "Next": "Pause",
    }
    states = {"Send": send, "Pause": {"Type": "Wait", "Seconds": 2, "Next": "Do"}, **FAIL}
    site.outcome({"Each": mapped(states, MaxConcurrency=3, Retry=retry)}, [1, 2, 3])
    return len(site.take(url, 6, seconds=10))
