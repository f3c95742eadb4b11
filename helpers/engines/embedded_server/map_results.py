"""Results of a Map Run: the state's output, or files in S3 (ResultWriter, developer guide, 2026-11-24)."""

import json
from collections.abc import Iterator
from typing import Any

from map_items import Fields

Child = dict[str, Any]

NAMES = (
    *("executionArn", "stateMachineArn", "name", "status", "startDate", "stopDate"),
    *("input", "output", "error", "cause"),
)
"""What is told of a child."""


def transformed(children: list[Child], transformation: str) -> Iterator[Any]:
    """What a Transformation makes of these children, which leaves those that failed as they are."""
    for child in children:
        if transformation == "NONE" or child["status"] != "SUCCEEDED":
            yield told(child)
        elif isinstance(output := json.loads(child["output"]), list) and transformation == "FLATTEN":
            yield from output
        else:
            yield output


def told(child: Child) -> Child:
    """A child with its input, its output or error, and its times."""
    found = {name: child[name] for name in NAMES if child.get(name) is not None}
    details = {name: {"Included": True} for name in ("InputDetails", "OutputDetails")}
    redrive = {"RedriveCount": 0, "RedriveStatus": "REDRIVABLE_BY_MAP_RUN"}
    if child["status"] == "SUCCEEDED":
        redrive |= {
            "RedriveStatus": "NOT_REDRIVABLE",
            "RedriveStatusReason": "Execution is SUCCEEDED and cannot be redriven",
        }
    return {name[0].upper() + name[1:]: value for name, value in found.items()} | details | redrive


def write(fields: Fields, map_run: str, children: list[Child], waiting: list[Any]) -> dict[str, Any]:
    """Write a manifest and a file for each outcome, and return where; waiting: inputs that never started."""
    from ministack.services import s3

    writer = fields.state["ResultWriter"]
    place = fields.value(writer.get("Parameters") or writer.get("Arguments"))
    config = fields.value(writer.get("WriterConfig", {}))
    folder = "/".join(filter(None, [place.get("Prefix"), map_run.rpartition(":")[2]]))

    def put(name: str, text: str) -> dict[str, Any]:
        key, body = f"{folder}/{name}", text.encode()
        status, _, _ = s3._put_object(place["Bucket"], key, body, {})
        if status >= 300:
            cause = f"PutObject to {place['Bucket']} answered {status}"
            raise fields.sfn._ExecutionError("States.ResultWriterFailed", cause)
        return {"Key": key, "Size": len(body)}

    def put_all(outcome: str, contents: list[Any]) -> list[dict[str, Any]]:
        if not contents:
            return []
        if config.get("OutputType") == "JSONL":
            return [put(f"{outcome}_0.jsonl", "\n".join(map(json.dumps, contents)))]
        return [put(f"{outcome}_0.json", json.dumps(contents))]

    succeeded = [child for child in children if child["status"] == "SUCCEEDED"]
    pending = {"InputDetails": {"Included": True}, "Status": "PENDING"}
    files = {
        "FAILED": [told(child) for child in children if child["status"] != "SUCCEEDED"],
        "PENDING": [pending | {"Input": json.dumps(data)} for data in waiting],
        "SUCCEEDED": list(transformed(succeeded, config.get("Transformation", "NONE"))),
    }
    manifest = {
        "DestinationBucket": place["Bucket"],
        "MapRunArn": map_run,
        "ResultFiles": {outcome: put_all(outcome, contents) for outcome, contents in files.items()},
    }
    key = put("manifest.json", json.dumps(manifest))["Key"]
    return {"MapRunArn": map_run, "ResultWriterDetails": {"Bucket": place["Bucket"], "Key": key}}
