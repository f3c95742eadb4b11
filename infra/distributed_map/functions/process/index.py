"""The direct lane's task: processes one item inside its child execution, or a batch, one after another."""

import json
import time


class BadItem(Exception):
    """This item can never succeed."""


class Transient(Exception):
    """This attempt failed; the state's Retry may succeed."""


def handler(event, context):
    """Return when the item's attempt ran, and where; of a batch (`items`) a list of these."""
    if "warm_seconds" in event:
        time.sleep(event["warm_seconds"])
        print(json.dumps({"warm": context.log_stream_name}))
        return {"worker": context.log_stream_name}
    if "items" in event:
        return [do(item, event["attempt"], context.log_stream_name) for item in event["items"]]
    return do(event["item"], event["attempt"], context.log_stream_name)


def do(item, attempt, worker):
    """The task itself; replace it with real work. Sleeps `task_seconds`, fails as the item says.

    The first `deaths` attempts never come back: their worker ends with the task in its hands.
    """
    about = {"item": item["item"], "attempt": attempt, "worker": worker}
    start = time.time()
    print(json.dumps({"attempt_started": about | {"start": start}}), flush=True)
    if attempt <= item.get("deaths", 0):
        raise SystemExit(f"item {item['item']} ends its worker")
    time.sleep(item["task_seconds"])
    end = time.time()
    failed = item.get("bad") or attempt <= item.get("failures", 0)
    outcome = "failed" if failed else "succeeded"
    print(json.dumps({"attempt_ended": about | {"end": end, "outcome": outcome}}), flush=True)
    if item.get("bad"):
        raise BadItem(f"item {item['item']} is marked as bad")
    if failed:
        raise Transient(f"item {item['item']} fails its first {item['failures']} attempts")
    return about | {"service_start": start, "service_end": end}
