"""The direct lane's task: processes one item inside its child execution."""

import json
import time


class BadItem(Exception):
    """This item can never succeed."""


class Transient(Exception):
    """This attempt failed; the state's Retry may succeed."""


def handler(event, context):
    """Sleep the item's `task_seconds`; fail as the item says; return when the attempt ran, and where."""
    if "warm_seconds" in event:
        time.sleep(event["warm_seconds"])
        print(json.dumps({"warm": context.log_stream_name}))
        return {"worker": context.log_stream_name}
    item, attempt = event["item"], event["attempt"]
    about = {"item": item["item"], "attempt": attempt, "worker": context.log_stream_name}
    start = time.time()
    print(json.dumps({"attempt_started": about | {"start": start}}), flush=True)
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
