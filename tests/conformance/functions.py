"""Lambda functions."""

import base64
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.conformance.probe import probe
from tests.conformance.site import Site

GUIDE = "https://docs.aws.amazon.com/lambda/latest/dg"
RUNTIME = f"{GUIDE}/lambda-runtime-environment.html"
CONCURRENCY = f"{GUIDE}/lambda-concurrency.html"
RESERVED = f"{GUIDE}/configuration-concurrency.html"
VARIABLES = f"{GUIDE}/configuration-envvars.html"
LOGS = f"{GUIDE}/python-logging.html"


def open_gate(site: Site, gate: str, count: int) -> None:
    """Let so many handlers go on."""
    site.send(gate, ["go"] * count)


@probe(VARIABLES, [True, True], needs="lambda", lesson=True)
def handler_environment(site: Site) -> Any:
    """A handler finds its function's name and region in AWS_LAMBDA_FUNCTION_NAME and AWS_REGION."""
    facts = site.call(name := site.function(), do="return")
    return [facts["name"] == name, facts["region"] == site.sqs.meta.region_name]


@probe(f"{GUIDE}/lambda-python.html", True, needs="lambda", lesson=True)
def boto3_reaches_aws(site: Site) -> Any:
    """The runtime brings boto3, whose default client has the role's credentials and reaches the services."""
    log = site.queue()
    site.call(site.function(), do="return", log=log)
    return len(site.take(log, 1, quiet=0)) == 1


@probe(RUNTIME, [1, 2, True], needs="lambda", lesson=True)
def warm_environment_is_reused(site: Site) -> Any:
    """An environment lives on between invocations, with what its module holds: one cold start."""
    name = site.function()
    one, two = (site.call(name, do="return") for _ in range(2))
    return [one["call"], two["call"], one["environment"] == two["environment"]]


@probe(CONCURRENCY, [4, 4], needs="lambda", lesson=True)
def environment_for_each_concurrent_call(site: Site) -> Any:
    """An environment handles one invocation at a time: four at once need four."""
    name, log, gate = site.function(), site.queue(), site.queue()
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(site.call, name, do="wait", log=log, gate=gate) for _ in range(4)]
        at_once = len(site.take(log, 4, seconds=60))
        open_gate(site, gate, 4)
        return [at_once, len({call.result()["environment"] for call in calls})]


@probe(RESERVED, ["TooManyRequestsException", 429], needs="lambda", lesson=True)
def reserved_concurrency_throttles(site: Site) -> Any:
    """Over a function's reserved concurrency an invocation is throttled: TooManyRequestsException, 429."""
    name, log, gate = site.function(reserved=1), site.queue(), site.queue()
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(site.call, name, do="wait", log=log, gate=gate)
        site.take(log, 1, seconds=60, quiet=0)
        try:
            site.call(name, do="return")
            seen = ["accepted", 200]
        except site.functions.exceptions.TooManyRequestsException as error:
            meta = error.response["ResponseMetadata"]
            seen = [error.response["Error"]["Code"], meta["HTTPStatusCode"]]
        open_gate(site, gate, 1)
        held.result()
    return seen


@probe(RESERVED, "TooManyRequestsException", needs="lambda")
def reserved_zero_refuses_all(site: Site) -> Any:
    """Reserved concurrency 0 throttles every invocation."""
    name = site.function(reserved=0)
    return site.refused(site.functions.invoke, FunctionName=name, Payload=b'{"do": "return"}')


@probe(f"{GUIDE}/configuration-timeout.html", ["Unhandled", True], needs="lambda", lesson=True)
def timeout_ends_function(site: Site) -> Any:
    """A function that runs longer than its Timeout is ended: "Task timed out"."""
    name = site.function(Timeout=1)
    answer = site.functions.invoke(FunctionName=name, Payload=json.dumps({"do": "return", "seconds": 20}))
    return [
        answer.get("FunctionError"),
        "Task timed out after 1.00 seconds" in answer["Payload"].read().decode(),
    ]


@probe(f"{GUIDE}/python-exceptions.html", ["Unhandled", "AsTold", "no"], needs="lambda", lesson=True)
def handler_error(site: Site) -> Any:
    """A handler's exception comes back as FunctionError, with errorType and errorMessage."""
    answer = site.functions.invoke(FunctionName=site.function(), Payload=b'{"do": "fail"}')
    body = json.load(answer["Payload"])
    return [answer.get("FunctionError"), body["errorType"], body["errorMessage"]]


@probe(f"{GUIDE}/invocation-async.html", [202, 1], needs="lambda")
def asynchronous_invocation(site: Site) -> Any:
    """InvocationType Event: 202 at once, and the function runs by and by."""
    name, log = site.function(), site.queue()
    order = json.dumps({"do": "return", "log": log})
    answer = site.functions.invoke(FunctionName=name, InvocationType="Event", Payload=order)
    return [answer["StatusCode"], len(site.take(log, 1))]


@probe(f"{GUIDE}/gettingstarted-limits.html", 1000, needs="lambda", lesson=True)
def account_concurrency(site: Site) -> Any:
    """An account has 1,000 concurrent executions in a region by default (new ones may have fewer)."""
    return site.functions.get_account_settings()["AccountLimit"]["ConcurrentExecutions"]


@probe(LOGS, ["first line", "last line", True], needs="lambda")
def log_tail(site: Site) -> Any:
    """LogType Tail returns what the handler printed, and a REPORT line with the duration."""
    answer = site.functions.invoke(FunctionName=site.function(), LogType="Tail", Payload=b'{"do": "return"}')
    lines = base64.b64decode(answer["LogResult"]).decode().splitlines()
    printed = [line for line in lines if line in ("first line", "last line")]
    return [*printed, any(line.startswith("REPORT RequestId:") and "Duration:" in line for line in lines)]


@probe(
    f"{GUIDE}/monitoring-cloudwatchlogs.html", {"first line": 3, "last line": 3}, needs="lambda", lesson=True
)
def logs_in_cloudwatch(site: Site) -> Any:
    """What handlers print is in the log group /aws/lambda/NAME, every line of every invocation."""
    name = site.function()
    for _ in range(3):
        site.call(name, do="return")

    def counts() -> dict[str, int]:
        try:
            found = site.logs.filter_log_events(logGroupName=f"/aws/lambda/{name}")["events"]
        except site.logs.exceptions.ResourceNotFoundException:
            return {}
        lines = [event["message"].strip() for event in found]
        return {line: lines.count(line) for line in ("first line", "last line")}

    site.until(lambda: sum(counts().values()) >= 6)
    time.sleep(1)
    return counts()
