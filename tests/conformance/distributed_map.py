"""Maps in Distributed mode, and their Map Runs."""

import json
from collections import Counter
from typing import Any

from tests.conformance.inline_map import at_once, one_fails
from tests.conformance.probe import probe
from tests.conformance.site import FAIL, PASS, Site, callback, distributed, outcome

GUIDE = "https://docs.aws.amazon.com/step-functions/latest/dg"
MAP = f"{GUIDE}/state-map-distributed.html"
READER = f"{GUIDE}/input-output-itemreader.html"
BATCHER = f"{GUIDE}/input-output-itembatcher.html"
WRITER = f"{GUIDE}/input-output-resultwriter.html"
RUN = f"{GUIDE}/concepts-examine-map-run.html"
REDRIVE = f"{GUIDE}/redrive-map-run.html"
UPDATE = "https://docs.aws.amazon.com/step-functions/latest/apireference/API_UpdateMapRun.html"
DESCRIBE = "https://docs.aws.amazon.com/step-functions/latest/apireference/API_DescribeMapRun.html"
LIST = "https://docs.aws.amazon.com/step-functions/latest/apireference/API_ListExecutions.html"
QUOTAS = f"{GUIDE}/service-quotas.html"
THRESHOLD = "FAILED States.ExceedToleratedFailureThreshold"


# -- how many at once -------------------------------------------------------------------------------------


@probe(MAP, [5, "in order"], lesson=True)
def max_concurrency_5(site: Site) -> Any:
    """MaxConcurrency 5: at most five child executions at once; the results keep the items' order."""
    url = site.queue()
    return at_once(site, distributed({"Do": callback(url)}, MaxConcurrency=5), url, list(range(12)), 5)


@probe(MAP, [50, "in order"], lesson=True)
def max_concurrency_50(site: Site) -> Any:
    """MaxConcurrency 50: at most fifty child executions at once."""
    url = site.queue()
    return at_once(site, distributed({"Do": callback(url)}, MaxConcurrency=50), url, list(range(120)), 50)


@probe(MAP, [4, "in order"], lesson=True)
def max_concurrency_path(site: Site) -> Any:
    """MaxConcurrencyPath reads the limit from the state's input."""
    url = site.queue()
    state = distributed({"Do": callback(url)}, ItemsPath="$.items", MaxConcurrencyPath="$.limit")
    return at_once(site, state, url, {"items": list(range(12)), "limit": 4}, 4)


@probe(MAP, [100, "in order"], lesson=True)
def default_has_no_limit(site: Site) -> Any:
    """Without MaxConcurrency all start: up to 10,000 child executions run at once."""
    url = site.queue()
    return at_once(site, distributed({"Do": callback(url)}), url, list(range(100)), 100)


@probe(MAP, [100, "in order"], lesson=True)
def zero_means_no_limit(site: Site) -> Any:
    """MaxConcurrency 0 sets no limit."""
    url = site.queue()
    return at_once(site, distributed({"Do": callback(url)}, MaxConcurrency=0), url, list(range(100)), 100)


@probe(UPDATE, [2, 6], lesson=True)
def update_map_run(site: Site) -> Any:
    """UpdateMapRun changes MaxConcurrency of a Map Run under way: 2 becomes 6."""
    url = site.queue()
    machine = site.machine({"Each": distributed({"Do": callback(url)}, MaxConcurrency=2)})
    execution = site.start(machine, list(range(12)))
    before = site.take(url, 2)
    site.sfn.update_map_run(mapRunArn=site.map_run(execution), maxConcurrency=6)
    after = len(before) + len(site.take(url, 4, seconds=10))
    return [len(before), after]


@probe(MAP, [4, "in order"])
def jsonata_items_and_limit(site: Site) -> Any:
    """JSONata: Items and MaxConcurrency may be expressions."""
    url = site.queue()
    task = {
        "Type": "Task",
        "Resource": "arn:aws:states:::sqs:sendMessage.waitForTaskToken",
        "Arguments": {
            "QueueUrl": url,
            "MessageBody": {"token": "{% $states.context.Task.Token %}", "input": "{% $states.input %}"},
        },
        "TimeoutSeconds": 60,
        "End": True,
    }
    state = distributed(
        {"Do": task},
        QueryLanguage="JSONata",
        Items="{% $states.input.items %}",
        MaxConcurrency="{% $states.input.limit %}",
    )
    state["ItemProcessor"]["States"]["Do"]["QueryLanguage"] = "JSONata"
    return at_once(site, state, url, {"items": list(range(12)), "limit": 4}, 4)


# -- children ---------------------------------------------------------------------------------------------


def finished(site: Site, state: dict[str, Any], data: Any) -> tuple[dict[str, Any], str]:
    """(the ended execution, the ARN of its Map Run) of a new machine with this Map."""
    execution = site.start(site.machine({"Each": state}), data)
    return site.end(execution), site.map_run(execution)


def statuses(site: Site, map_run: str) -> dict[str, int]:
    """How many child executions have each status."""
    return dict(sorted(Counter(child["status"] for child in site.children(map_run)).items()))


@probe(MAP, [{"i": 0, "v": "a", "k": 7}, {"i": 1, "v": "b", "k": 7}], lesson=True)
def item_selector(site: Site) -> Any:
    """ItemSelector shapes each child's input from $$.Map.Item.Index, $$.Map.Item.Value and the input."""
    select = {"i.$": "$$.Map.Item.Index", "v.$": "$$.Map.Item.Value", "k.$": "$.k"}
    state = distributed(PASS, ItemsPath="$.items", ItemSelector=select)
    return site.outcome({"Each": state}, {"items": ["a", "b"], "k": 7})


@probe(MAP, [1, 2, 3])
def express_children(site: Site) -> Any:
    """ExecutionType EXPRESS: the children are Express executions; their outputs come back."""
    return site.outcome({"Each": distributed(PASS, kind="EXPRESS")}, [1, 2, 3])


@probe(MAP, [], lesson=True)
def empty_array(site: Site) -> Any:
    """No items, no child: the result is an empty array."""
    return site.outcome({"Each": distributed(PASS)}, [])


@probe(RUN, True)
def label_names_map_run(site: Site) -> Any:
    """Label is part of the Map Run's ARN."""
    _, run = finished(site, distributed(PASS, Label="Mine"), [1])
    return "/Mine:" in run


@probe(LIST, {"SUCCEEDED": 3}, lesson=True)
def children_listed_by_map_run(site: Site) -> Any:
    """ListExecutions with mapRunArn lists the child executions."""
    _, run = finished(site, distributed(PASS), [1, 2, 3])
    return statuses(site, run)


@probe(LIST, 1)
def children_hidden_from_machine(site: Site) -> Any:
    """ListExecutions of the state machine lists the parent, not the children."""
    execution = site.start(machine := site.machine({"Each": distributed(PASS)}), [1, 2, 3])
    site.end(execution)
    return len(site.sfn.list_executions(stateMachineArn=machine)["executions"])


@probe(MAP, ["SUCCEEDED", "7", True], lesson=True)
def child_is_an_execution(site: Site) -> Any:
    """A child is an execution with a description of its own: status, input, output, its Map Run."""
    _, run = finished(site, distributed(PASS), [7])
    children = site.children(run)
    if not children:
        return "no child listed"
    child = site.sfn.describe_execution(executionArn=children[0]["executionArn"])
    return [child["status"], child["output"], child.get("mapRunArn") == run]


@probe(f"{GUIDE}/input-output-contextobject.html", True, lesson=True)
def child_has_its_own_context(site: Site) -> Any:
    """In a child $$.Execution.Id is the child's, not its parent's."""
    states = {"Do": {"Type": "Pass", "Parameters": {"id.$": "$$.Execution.Id"}, "End": True}}
    execution = site.start(site.machine({"Each": distributed(states)}), [1, 2])
    ids = {child["id"] for child in outcome(site.end(execution))}
    return len(ids) == 2 and execution not in ids


@probe(
    DESCRIBE,
    [{"running": 3, "pending": 5, "total": 8}, {"succeeded": 8, "running": 0, "pending": 0}],
    lesson=True,
)
def counts_while_running(site: Site) -> Any:
    """DescribeMapRun counts running and pending children while the Map Run is under way, all as succeeded at
    the end."""
    url = site.queue()
    execution = site.start(
        site.machine({"Each": distributed({"Do": callback(url)}, MaxConcurrency=3)}), list(range(8))
    )
    out, run = site.take(url, 3), site.map_run(execution)
    counts = site.sfn.describe_map_run(mapRunArn=run)["itemCounts"]
    during = {key: counts[key] for key in ("running", "pending", "total")}
    while out:
        for body in out:
            site.answer(body["token"])
        out = site.take(url, 1, seconds=3, quiet=0)
    site.end(execution)
    counts = site.sfn.describe_map_run(mapRunArn=run)["itemCounts"]
    return [during, {key: counts[key] for key in ("succeeded", "running", "pending")}]


# -- failures ---------------------------------------------------------------------------------------------


def some_fail(site: Site, items: int, **tolerated: Any) -> Any:
    """The outcome of a Map over ten items of which so many fail."""
    rule = {"Variable": "$", "NumericLessThan": items, "Next": "Do"}
    which = {"Type": "Choice", "Choices": [rule], "Default": "Well"}
    states = {"Which": which, "Well": {"Type": "Succeed"}, **FAIL}
    seen = outcome(
        site.end(site.start(site.machine({"Each": distributed(states, **tolerated)}), list(range(10))))
    )
    return seen if isinstance(seen, str) else "SUCCEEDED"


@probe(MAP, THRESHOLD, lesson=True)
def one_failure_fails_the_run(site: Site) -> Any:
    """With no tolerance one failed child fails the Map: States.ExceedToleratedFailureThreshold."""
    return some_fail(site, 1)


@probe(MAP, ["SUCCEEDED", THRESHOLD], lesson=True)
def tolerated_failure_count(site: Site) -> Any:
    """ToleratedFailureCount 2: two failed items pass, three fail the Map."""
    return [some_fail(site, n, ToleratedFailureCount=2) for n in (2, 3)]


@probe(MAP, ["SUCCEEDED", THRESHOLD], lesson=True)
def tolerated_failure_percentage(site: Site) -> Any:
    """ToleratedFailurePercentage 30: three failed items of ten pass, four fail the Map."""
    return [some_fail(site, n, ToleratedFailurePercentage=30) for n in (3, 4)]


@probe(MAP, [{"SUCCEEDED": 8, "FAILED": 2}, 2, 8], lesson=True)
def failed_items_counted(site: Site) -> Any:
    """DescribeMapRun counts the failed items, and ListExecutions shows the failed children."""
    rule = {"Variable": "$", "NumericLessThan": 2, "Next": "Do"}
    which = {"Type": "Choice", "Choices": [rule], "Default": "Well"}
    states = {"Which": which, "Well": {"Type": "Succeed"}, **FAIL}
    _, run = finished(site, distributed(states, ToleratedFailureCount=5), list(range(10)))
    counts = site.sfn.describe_map_run(mapRunArn=run)["itemCounts"]
    return [statuses(site, run), counts["failed"], counts["succeeded"]]


@probe(MAP, [THRESHOLD, "FAILED"], lesson=True)
def fails_early(site: Site) -> Any:
    """Past its threshold the Map Run fails at once: it does not wait for children that still run."""
    url = site.queue()
    state = distributed(one_fails(url), MaxConcurrency=3)
    ended, run = finished(site, state, [1, 0, *range(2, 10)])
    return [outcome(ended), site.sfn.describe_map_run(mapRunArn=run)["status"]]


@probe(DESCRIBE, [["ABORTED", "FAILED"], "TaskTimedOut"], lesson=True)
def failure_aborts_children(site: Site) -> Any:
    """When the Map Run fails, its running children are stopped (ABORTED), and their tokens are dead."""
    url = site.queue()
    execution = site.start(
        site.machine({"Each": distributed(one_fails(url), MaxConcurrency=3)}), [1, 0, *range(2, 10)]
    )
    out = site.take(url, 2, quiet=0)
    site.end(execution)
    run = site.map_run(execution)
    site.until(lambda: "RUNNING" not in statuses(site, run), seconds=10)
    return [sorted(statuses(site, run)), site.answer(out[0]["token"])]


@probe(RUN, ["ABORTED", "ABORTED", ["ABORTED"], "TaskTimedOut", 0], lesson=True)
def stop_aborts_children(site: Site) -> Any:
    """StopExecution of the parent stops its Map Run: running children become ABORTED, their tokens die,
    and no other child starts."""
    url = site.queue()
    execution = site.start(
        site.machine({"Each": distributed({"Do": callback(url)}, MaxConcurrency=3)}), list(range(9))
    )
    out, run = site.take(url, 3), site.map_run(execution)
    site.sfn.stop_execution(executionArn=execution)
    status = site.end(execution)["status"]
    site.until(lambda: "RUNNING" not in statuses(site, run), seconds=10)
    return [
        status,
        site.sfn.describe_map_run(mapRunArn=run)["status"],
        sorted(statuses(site, run)),
        site.answer(out[0]["token"]),
        len(site.take(url, 0, seconds=2)),
    ]


@probe(MAP, [2, 2])
def retry_makes_new_map_run(site: Site) -> Any:
    """Retry on a Distributed Map starts a new Map Run with every child again."""
    retry = [{"ErrorEquals": ["States.ALL"], "IntervalSeconds": 1, "MaxAttempts": 1}]
    state = distributed(FAIL, Retry=retry)
    execution = site.start(site.machine({"Each": state}), [1])
    site.end(execution)
    runs = [run["mapRunArn"] for run in site.sfn.list_map_runs(executionArn=execution)["mapRuns"]]
    return [len(runs), sum(len(site.children(run)) for run in runs)]


@probe(REDRIVE, ["SUCCEEDED", 1, 4])
def redrive_repeats_failed_only(site: Site) -> Any:
    """RedriveExecution of the parent runs only the children that did not succeed again."""
    url = site.queue()
    state = distributed({"Do": callback(url)}, MaxConcurrency=1)
    execution = site.start(site.machine({"Each": state}), [0, 1, 2])
    out = site.take(url, 1, quiet=0)
    site.answer(out[0]["token"], 0)
    out += site.take(url, 1, quiet=0)
    site.sfn.send_task_failure(taskToken=out[1]["token"], error="Passing")
    site.end(execution)
    site.sfn.redrive_execution(executionArn=execution)
    count = len(out)
    while again := site.take(url, 1, seconds=5, quiet=0):
        count += len(again)
        site.answer(again[0]["token"], 0)
    ended = site.end(execution)
    return [ended["status"], ended.get("redriveCount"), count]


# -- items from S3, batches, results to S3 ----------------------------------------------------------------


def read(site: Site, input_type: str, objects: dict[str, str], key: str, **config: Any) -> Any:
    """The outcome of a Map over an object in a bucket."""
    reader = {
        "Resource": "arn:aws:states:::s3:getObject",
        "ReaderConfig": {"InputType": input_type, **config},
        "Parameters": {"Bucket": site.bucket(**objects), "Key": key},
    }
    return site.outcome({"Each": distributed(PASS, ItemReader=reader)})


@probe(READER, [{"n": 1}, {"n": 2}], lesson=True)
def reader_json(site: Site) -> Any:
    """ItemReader, JSON: the items are an array in an object."""
    return read(site, "JSON", {"items_json": '[{"n": 1}, {"n": 2}]'}, "items.json")


@probe(READER, [{"n": 1}, {"n": 2}])
def reader_json_lines(site: Site) -> Any:
    """ItemReader, JSONL: each line of an object is an item."""
    return read(site, "JSONL", {"items_jsonl": '{"n": 1}\n{"n": 2}\n'}, "items.jsonl")


@probe(READER, [{"n": "1", "c": "x"}, {"n": "2", "c": "y"}])
def reader_csv(site: Site) -> Any:
    """ItemReader, CSV: the first row names the fields, all of which are text."""
    return read(site, "CSV", {"items_csv": "n,c\n1,x\n2,y\n"}, "items.csv", CSVHeaderLocation="FIRST_ROW")


@probe(READER, [1, 2, 3])
def reader_max_items(site: Site) -> Any:
    """ReaderConfig MaxItems limits how many items are read."""
    return read(site, "JSON", {"items_json": "[1, 2, 3, 4, 5]"}, "items.json", MaxItems=3)


@probe(READER, ["a", "b"])
def reader_list_objects(site: Site) -> Any:
    """ItemReader, listObjectsV2: one item for each object, with its Key."""
    bucket = site.bucket(a="1", b="2")
    reader = {"Resource": "arn:aws:states:::s3:listObjectsV2", "Parameters": {"Bucket": bucket}}
    seen = site.outcome({"Each": distributed(PASS, ItemReader=reader)})
    return [item["Key"] for item in seen] if isinstance(seen, list) else seen


def batches(site: Site, **batcher: Any) -> Any:
    """What the children of a Map over ten numbers got as input."""
    return site.outcome({"Each": distributed(PASS, ItemBatcher=batcher)}, list(range(10)))


@probe(BATCHER, [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]], lesson=True)
def item_batcher(site: Site) -> Any:
    """ItemBatcher MaxItemsPerBatch 3: a child gets up to three items, as Items."""
    seen = batches(site, MaxItemsPerBatch=3)
    return [b["Items"] if isinstance(b, dict) else b for b in seen] if isinstance(seen, list) else seen


@probe(BATCHER, [{"k": 1}, {"k": 1}], lesson=True)
def batch_input(site: Site) -> Any:
    """BatchInput is added to every batch."""
    seen = batches(site, MaxItemsPerBatch=5, BatchInput={"k": 1})
    return [b.get("BatchInput") for b in seen if isinstance(b, dict)] if isinstance(seen, list) else seen


@probe(BATCHER, [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]])
def batch_size_path(site: Site) -> Any:
    """MaxItemsPerBatchPath reads the size of a batch from the state's input."""
    state = distributed(PASS, ItemsPath="$.items", ItemBatcher={"MaxItemsPerBatchPath": "$.size"})
    seen = site.outcome({"Each": state}, {"items": list(range(10)), "size": 4})
    return [b["Items"] if isinstance(b, dict) else b for b in seen] if isinstance(seen, list) else seen


def written(site: Site, states: dict[str, Any], data: Any, **fields: Any) -> tuple[Any, dict[str, Any]]:
    """(the Map's output, the objects in the bucket by the last part of their keys) with a ResultWriter."""
    bucket = site.bucket()
    writer = {"Resource": "arn:aws:states:::s3:putObject", "Parameters": {"Bucket": bucket, "Prefix": "out"}}
    seen = site.outcome({"Each": distributed(states, ResultWriter=writer, **fields)}, data)
    keys = [found["Key"] for found in site.s3.list_objects_v2(Bucket=bucket).get("Contents", [])]
    objects = {k.rpartition("/")[2]: site.s3.get_object(Bucket=bucket, Key=k)["Body"].read() for k in keys}
    return seen, {name: json.loads(body) for name, body in objects.items() if body}


@probe(WRITER, ["MapRunArn", "ResultWriterDetails"], lesson=True)
def result_writer_output(site: Site) -> Any:
    """With a ResultWriter the Map's output is only where the results are: MapRunArn, ResultWriterDetails."""
    seen, _ = written(site, PASS, [1, 2, 3])
    return sorted(seen) if isinstance(seen, dict) else seen


@probe(WRITER, ["DestinationBucket", "MapRunArn", "ResultFiles"], lesson=True)
def result_writer_manifest(site: Site) -> Any:
    """ResultWriter writes manifest.json, which lists the result files by status."""
    _, objects = written(site, PASS, [1, 2, 3])
    return sorted(objects.get("manifest.json", {}))


@probe(WRITER, [["1", "SUCCEEDED"], ["2", "SUCCEEDED"]], lesson=True)
def result_writer_succeeded(site: Site) -> Any:
    """SUCCEEDED_0.json holds each child's Output as text, with its Status, Input and more."""
    _, objects = written(site, PASS, [1, 2])
    return sorted([child["Output"], child["Status"]] for child in objects.get("SUCCEEDED_0.json", []))


@probe(WRITER, [["FAILED", "Unwell"], ["FAILED", "Unwell"]], lesson=True)
def result_writer_failed(site: Site) -> Any:
    """FAILED_0.json holds the children that failed, with Error and Cause."""
    _, objects = written(site, FAIL, [1, 2], ToleratedFailurePercentage=100)
    return [[child["Status"], child["Error"]] for child in objects.get("FAILED_0.json", [])]
