"""A real account: who one is, what may be spent, what is left. An emulator stands in for the account."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import boto3
import nbformat
import pandas as pd
import pytest
from botocore import exceptions
from botocore.config import Config
from botocore.stub import Stubber

from helpers import budget, checks, cli, cost, live, notebooks, plots, stack, sweep
from helpers.engines import aws, connect
from helpers.engines.aws import Aws
from helpers.engines.embedded import Server
from helpers.engines.pacing import QUOTAS, Bucket
from helpers.errors import BudgetError, EngineError, StackError, SweepError
from helpers.experiment import Experiment
from helpers.trace import Trace

TOKEN = "FwoGZXIvYXdzPlantedSESSIONtokenEJr"
SMALL = Experiment(
    8, siphon_share=0.5, map_concurrency=4, worker_concurrency=2, direct_seconds=0.02, limited_seconds=0.05
)


@pytest.fixture(autouse=True)
def account(engine, tmp_path, monkeypatch) -> None:
    """The session's engine as an account: its credentials, a region, a new ledger, and no waiting."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "LAB_"))]:
        monkeypatch.delenv(name)
    config = tmp_path / "config"
    config.write_text("[profile other]\nregion = eu-west-1\n")
    for name, value in {
        "AWS_ENDPOINT_URL": engine.endpoint_url,
        aws.CONFIRMED: engine.endpoint_url,
        **engine.credentials.variables(),
        "AWS_SESSION_TOKEN": TOKEN,
        "AWS_REGION": "us-east-1",
        "AWS_CONFIG_FILE": str(config),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
        "AWS_EC2_METADATA_DISABLED": "true",
        budget.LEDGER: str(tmp_path / "ledger.jsonl"),
    }.items():
        monkeypatch.setenv(name, value)
    for name, seconds in {"poll_seconds": 0.1, "log_seconds": 5.0, "settle_seconds": 0.0}.items():
        monkeypatch.setattr(Aws, name, seconds)


def spent() -> float:
    return sum(entry["usd"] for entry in budget.noted())


# --- Who one is ---


def test_account_identity_and_region_are_told(capsys):
    """Connecting says on standard error which account, identity and region it is."""
    with connect("aws", budget_usd=0) as engine:
        assert engine.account == "000000000000"
    told = capsys.readouterr()
    assert told.out == ""
    for word in ("account 000000000000", engine.identity, "region us-east-1", engine.endpoint_url):
        assert word in told.err


def test_region_and_profile_are_those_that_were_given(engine, monkeypatch, tmp_path):
    """What is given goes before the environment, that before the profile; other processes get the same."""
    engine.client("iam").create_user(UserName="other")
    other = engine.client("iam").create_access_key(UserName="other")["AccessKey"]
    keys = f"aws_access_key_id = {other['AccessKeyId']}\naws_secret_access_key = {other['SecretAccessKey']}"
    (tmp_path / "credentials").write_text(f"[other]\n{keys}\n")
    engine = connect("aws", budget_usd=1, region="eu-central-1")
    assert engine.region == "eu-central-1"
    assert "AWS_PROFILE" not in engine.shared()
    engine = connect("aws", budget_usd=1, profile="other")
    assert engine.region == "us-east-1"
    monkeypatch.delenv("AWS_REGION")
    engine = connect("aws", budget_usd=2.5, profile="other")
    assert engine.region == "eu-west-1"
    assert engine.flags() == "--engine aws --profile other --region eu-west-1"
    for name, value in engine.shared().items():
        monkeypatch.setenv(name, value)
    again = connect("aws")
    assert (again.region, again.budget_usd) == ("eu-west-1", 2.5)
    program = "import boto3; print(boto3.Session().get_credentials().access_key, boto3.Session().region_name)"
    environment = engine.fleet_environment()
    ran = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert ran.stdout == f"{other['AccessKeyId']} eu-west-1\n"


def refusal(**options) -> str:
    """What connecting is refused with."""
    with pytest.raises(EngineError) as refused:
        connect("aws", budget_usd=0, **options)
    return str(refused.value)


def test_no_credentials(monkeypatch):
    """Without credentials the sentence says how to give them."""
    for name in aws.KEYS:
        monkeypatch.delenv(name)
    told = refusal()
    assert "no credentials" in told
    assert "aws sso login" in told
    assert "--profile" in told


def test_half_of_the_credentials(monkeypatch):
    """A key without its secret counts as none."""
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "no credentials" in refusal()


def test_an_unknown_profile(monkeypatch):
    """The profile is named together with those there are, wherever its name came from."""
    for options, name in (({"profile": "nobody"}, "nobody"), ({}, "nowhere")):
        monkeypatch.setenv("AWS_PROFILE", "nowhere")
        told = refusal(**options)
        assert f"profile '{name}'" in told
        assert "which have: other" in told


def test_no_region(monkeypatch):
    """Without a region nothing is guessed."""
    monkeypatch.delenv("AWS_REGION")
    assert "no region" in refusal()


@pytest.mark.parametrize("region", ["us-esat-1", "nowhere"])
def test_an_unknown_region(region):
    """A misspelt region is named together with those that are like it."""
    told = refusal(region=region)
    assert f"region '{region}'" in told
    assert "us-east-1" in told


def test_a_wrong_region_or_no_network(monkeypatch):
    """Where nothing answers, network, proxy and region are named, within seconds."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    told = refusal(region="eu-west-1", endpoint="http://127.0.0.1:9")
    assert "no answer" in told
    assert "network" in told
    assert "eu-west-1" in told


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("ExpiredToken", "have expired"),
        ("ExpiredTokenException", "have expired"),
        ("InvalidClientTokenId", "are not valid in us-east-1"),
        ("SignatureDoesNotMatch", "are not valid in us-east-1"),
        ("OptInRequired", "is not enabled"),
        ("RegionDisabledException", "is not enabled"),
        ("AccessDenied", "does not say who is asking"),
    ],
)
def test_what_sts_refuses_is_told_with_its_remedy(monkeypatch, code, words):
    """An expired token, invalid keys and a region that is not enabled have a sentence each."""
    client = boto3.client("sts", region_name="us-east-1")
    monkeypatch.setattr(boto3.Session, "client", lambda *_, **__: client)
    with Stubber(client) as stubbed:
        stubbed.add_client_error("get_caller_identity", code, "no", 403)
        told = refusal()
    assert words in told
    assert code in told


@pytest.mark.parametrize(
    "error",
    [
        exceptions.SSOTokenLoadError(profile_name="other", error_msg="expired"),
        exceptions.UnauthorizedSSOTokenError(),
        exceptions.TokenRetrievalError(provider="sso", error_msg="expired"),
    ],
)
def test_an_expired_sign_in(monkeypatch, error):
    """Where the token of a single sign-on has expired, the sentence says how to sign in to that profile."""

    def fail(self):
        raise error

    monkeypatch.setattr("botocore.credentials.EnvProvider.load", fail)
    monkeypatch.setenv("AWS_PROFILE", "other")
    told = refusal()
    assert "have expired" in told
    assert "aws sso login --profile other" in told


# --- What may be spent ---


@pytest.mark.parametrize("given", ["-1", "nan", "inf", "much"])
def test_a_budget_is_a_number_of_dollars(monkeypatch, given):
    """Without a budget, or with one that is no amount, nothing is connected to."""
    with pytest.raises(BudgetError, match="--budget"):
        connect("aws")
    monkeypatch.setenv(aws.BUDGET, given)
    with pytest.raises(BudgetError, match=f"budget '{given}'"):
        connect("aws")


def names(engine) -> set[str]:
    """All that there is of what the lab deploys."""
    found = set(stack.deployed(engine))
    found |= {one["FunctionName"] for one in engine.client("lambda").list_functions()["Functions"]}
    return found | set(engine.client("sqs").list_queues().get("QueueUrls", []))


def test_a_dearer_run_is_refused_before_anything_is_created(engine, monkeypatch):
    """Estimate, what is left and the remedy are told; nothing was deployed, and nothing was noted."""
    before = names(engine)
    price = budget.of_run(SMALL)
    account = connect("aws", budget_usd=0.9 * price)
    calls = []
    account.client("cloudformation").meta.events.register("before-call", lambda **_: calls.append(1))
    with pytest.raises(BudgetError) as refused:
        account.run(SMALL, progress=False)
    for told in (budget.dollars(price), budget.dollars(0.9 * price), "left of the budget", "--budget"):
        assert told in str(refused.value)
    assert calls == []
    assert names(engine) == before
    assert spent() == 0


def test_a_run_is_estimated_counted_checked_and_destroyed(engine, capsys, tmp_path):
    """A whole run through the account's own path: estimate first, all laws, a price noted, nothing left."""
    before = names(engine)
    account = connect("aws", budget_usd=0.5)
    experiment = replace(SMALL, limited_seconds=0.6)
    trace = account.run(experiment, progress=False)
    checks.verify(trace)
    assert (trace.engine, trace.versions["region"]) == ("aws", "us-east-1")
    told = capsys.readouterr().err
    price = budget.of_run(experiment)
    assert f"at most {budget.dollars(price)} on AWS" in told
    assert budget.dollars(0.5 - price) + " is then left of the budget $0.5000" in told
    assert spent() == pytest.approx(price)
    assert cost.total(cost.of(trace)) <= spent()
    assert names(engine) == before
    # Map Runs were counted on the way.
    counted = trace.metrics[trace.metrics["metric"] == "itemCounts.succeeded"]["value"]
    assert counted.is_monotonic_increasing
    assert 0 < counted.max() <= len(trace.items)
    assert Trace.load(trace.save(tmp_path / "trace.parquet")).metrics.equals(trace.metrics)


def test_a_fleet_finds_the_account_by_itself():
    """Workers on this machine use the credentials of the same chain."""
    account = connect("aws", budget_usd=0.5)
    trace = account.run(Experiment(6, siphon_share=1, worker_concurrency=2, consumer="fleet"), progress=False)
    checks.verify(trace)


SPENDER = """
from helpers import budget
print("ready", flush=True)
budget.spend("a run", 0.3, 0.5, quietly=True)
"""


def test_processes_that_share_a_ledger_share_a_budget():
    """While one looks at what is left and notes what it takes, no other does: it waits, and sees that."""
    spending = subprocess.Popen(
        [sys.executable, "-c", SPENDER], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with spending:
        with budget._ledger() as entries:
            assert spending.stdout.readline() == b"ready\n"
            with pytest.raises(subprocess.TimeoutExpired):
                spending.wait(1)
            entries.append({"time": "now", "what": "another run", "usd": 0.25})
        assert "BudgetError: a run: estimate" in spending.communicate()[1].decode()
    assert spent() == 0.25


def test_without_a_ledger_it_adds_up_over_the_process(monkeypatch):
    """Where no file is named, one process has one budget, whoever connects."""
    monkeypatch.delenv(budget.LEDGER)
    monkeypatch.setattr(budget, "_process", [])
    for _ in range(2):
        connect("aws", budget_usd=1).spend("a run", 0.4)
    with pytest.raises(BudgetError, match=r"\$0\.3000: more than the \$0\.2000 left of the budget \$1\.00"):
        connect("aws", budget_usd=1).spend("a run", 0.3)


@pytest.mark.parametrize("file", [True, False])
def test_threads_share_a_budget(monkeypatch, file):
    """So do threads, with a ledger or without."""
    if not file:
        monkeypatch.delenv(budget.LEDGER)
        monkeypatch.setattr(budget, "_process", [])
    with ThreadPoolExecutor(1) as pool:
        with budget._ledger() as entries:
            spending = pool.submit(budget.spend, "a run", 0.3, 0.5, quietly=True)
            assert not wait([spending], timeout=1).done
            entries.append({"time": "now", "what": "another run", "usd": 0.25})
        with pytest.raises(BudgetError):
            spending.result()
    assert spent() == 0.25


def test_an_engine_without_a_price_only_notes(engine):
    """On the other engines the same is noted, nothing is refused and nothing printed."""
    engine.spend("a run", 1e6)
    assert spent() == 1e6


def test_what_is_started_by_hand_is_bounded(engine):
    """An execution is counted with as many transitions as its history shows, or with more."""
    items = live.payloads(Experiment(3, siphon_share=0.5, limited_seconds=0.01, direct_seconds=0.01))
    with stack.deploy(engine, "combined") as deployed:
        arn = deployed.start({"items": items})
        assert live.wait(deployed, arn, progress=False)["status"] == "SUCCEEDED"
        history = engine.client("stepfunctions").get_execution_history(executionArn=arn)["events"]
    entered = sum(event["type"].endswith("StateEntered") for event in history)
    transition = cost.US_EAST_1.transition.usd
    assert (1 + entered + cost.CHILD_TRANSITIONS * 3) * transition <= spent() < 0.001


def test_a_burst_costs_no_transitions():
    """A burst has no state machine; a run of the same items costs their transitions more."""
    experiment = Experiment(100, siphon_share=1, worker_concurrency=5)
    transitions = cost.CHILD_TRANSITIONS * 100 * cost.US_EAST_1.transition.usd
    assert budget.of_burst(experiment) < budget.of_run(experiment) - transitions


def test_warming_is_counted(monkeypatch):
    """Warm-up calls are part of an estimate; an experiment with cold starts has none."""
    warm = Experiment(50, worker_concurrency=20)
    cold = Experiment(50, worker_concurrency=20, cold_start=True)
    extra = budget.of_run(warm) - budget.of_run(cold)
    assert extra == pytest.approx(sum(map(budget.of_warming, live.to_warm(warm).values())))
    assert extra > 0


# --- Within AWS's quotas ---


def test_every_call_with_a_quota_is_paced(monkeypatch):
    """Calls and paginators of one account take from the bucket of their action, all from the same."""
    taken = []
    monkeypatch.setattr(Bucket, "take", lambda self: taken.append((self._size, self._rate)))
    account = connect("aws", budget_usd=0)
    with stack.deploy(account, "task_token", {"Consumer": "fleet"}) as deployed:
        account.budget_usd = 1
        arn = deployed.start({"item": {"item": 1}})
        taken.clear()
        client = account.client("stepfunctions")
        client.describe_execution(executionArn=arn)
        machine = deployed.outputs["StateMachineArn"]
        list(client.get_paginator("list_executions").paginate(stateMachineArn=machine))
        client.describe_state_machine(stateMachineArn=machine)
    assert taken[:2] == [QUOTAS["DescribeExecution"], QUOTAS["ListExecutions"]]


# --- What CloudWatch measured ---

RUN_BEGAN = time.time() // 60 * 60 - 600 + 30
"""In the middle of a minute, and long enough ago."""
OUTPUTS = {
    "WorkerFunction": "concurrency-lab-worker",
    "QueueUrl": "https://sqs.us-east-1.amazonaws.com/1/concurrency-lab-queue",
}


def test_metrics_of_the_run_s_minutes_are_read(capsys):
    """Each metric by its resource, minute by minute; what is missing at the end is named."""
    account = connect("aws", budget_usd=1)
    for seconds, value in ((-150, 9.0), (-20, 3.0), (60, 5.0), (540, 7.0)):
        account.client("cloudwatch").put_metric_data(
            Namespace="AWS/Lambda",
            MetricData=[
                {
                    "MetricName": "ConcurrentExecutions",
                    "Dimensions": [{"Name": "FunctionName", "Value": "concurrency-lab-worker"}],
                    "Timestamp": datetime.fromtimestamp(RUN_BEGAN + seconds, UTC),
                    "Value": value,
                }
            ],
        )
    capsys.readouterr()
    rows = account.metrics(OUTPUTS, RUN_BEGAN, RUN_BEGAN + 100)
    worker = {"metric": "ConcurrentExecutions", "resource": "WorkerFunction", "unit": "Count"}
    minutes = [RUN_BEGAN - 30, RUN_BEGAN + 30]
    assert rows == [{**worker, "time": at, "value": value} for at, value in zip(minutes, (3, 5), strict=True)]
    told = capsys.readouterr().err
    assert "ApproximateNumberOfMessagesVisible of QueueUrl" in told
    assert "ConcurrentExecutions" not in told
    assert spent() == budget.of_metrics(4)


def test_late_metrics_are_waited_for_within_a_bound(monkeypatch):
    """It looks again each minute until every metric has its last minute, but not for ever."""
    now = [RUN_BEGAN + 100]
    looks = []
    monkeypatch.setattr(time, "time", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.append(now.pop() + seconds))
    account = connect("aws", budget_usd=1)
    all_there = [
        {"time": RUN_BEGAN + 90, "metric": metric, "resource": resource, "value": 1.0, "unit": "Count"}
        for metric, resource in aws._queries(OUTPUTS)
    ]

    def points(asked, began, ended):
        looks.append(now[0])
        return all_there if len(looks) == enough else all_there[:1]

    monkeypatch.setattr(account, "_points", points)
    enough = 2
    assert account.metrics(OUTPUTS, RUN_BEGAN, RUN_BEGAN + 100) == all_there
    assert len(looks) == 2
    enough = 99
    looks.clear()
    assert account.metrics(OUTPUTS, RUN_BEGAN, now[0]) == all_there[:1]
    assert looks[-1] - looks[0] <= aws.METRIC_SECONDS + aws.PERIOD_SECONDS


def test_a_short_run_asks_cloudwatch_for_nothing():
    """A run of less than a minute has no metrics by the minute, nor has one of which nothing came back."""
    account = connect("aws", budget_usd=1)
    assert account.metrics(OUTPUTS, RUN_BEGAN, RUN_BEGAN + 59) == []
    assert account.metrics(OUTPUTS, RUN_BEGAN, float("nan")) == []
    assert spent() == 0


def test_metrics_that_are_not_to_be_had_are_left_out(capsys):
    """A budget that is used up, or a missing right, costs a run its metrics and no more, and is told."""
    assert connect("aws", budget_usd=0).metrics(OUTPUTS, RUN_BEGAN, RUN_BEGAN + 100) == []
    assert "CloudWatch's metrics are left out: CloudWatch's metrics: estimate" in capsys.readouterr().err
    account = connect("aws", budget_usd=1)
    with Stubber(account.client("cloudwatch")) as stubbed:
        stubbed.add_client_error("get_metric_data", "AccessDenied", "no", 403)
        assert account.metrics(OUTPUTS, RUN_BEGAN, RUN_BEGAN + 100) == []
    assert "AccessDenied" in capsys.readouterr().err


def test_metrics_are_drawn_where_there_are_any():
    """A timeline shows CloudWatch's minutes of a trace that has them."""
    from synthetic import make_trace

    trace = make_trace(Experiment(20))
    assert "CloudWatch" not in str(legend(plots.timeline(trace)))
    rows = [{"time": -5.0, "metric": "ConcurrentExecutions", "resource": "WorkerFunction", "value": 4.0}]
    trace = replace(trace, metrics=pd.DataFrame(rows).assign(unit="Count"))
    assert "CloudWatch" in str(legend(plots.timeline(trace)))


def legend(ax) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


# --- What is left, when something goes wrong ---


@pytest.fixture
def hasty(monkeypatch) -> None:
    """Clients that soon give up."""
    given_up = Config(retries={"mode": "standard", "max_attempts": 1}, connect_timeout=1, read_timeout=30)
    monkeypatch.setattr(aws, "CLIENT_CONFIG", given_up)


def test_a_lost_network_ends_in_a_destroy_that_is_tried_and_told(monkeypatch, capsys, hasty, tmp_path):
    """The first error goes on; what could not be destroyed is named with its command; counts are kept."""
    monkeypatch.setattr(live, "RUNS", tmp_path)
    server = Server.start()
    try:
        for name, value in (
            {"AWS_ENDPOINT_URL": server.endpoint_url} | server.credentials.variables()
        ).items():
            monkeypatch.setenv(name, value)
        account = connect("aws", budget_usd=1, endpoint=server.endpoint_url)

        def lose(**_) -> None:
            server.stop()

        account.client("stepfunctions").meta.events.register("after-call.sfn.DescribeMapRun", lose)
        with pytest.raises(exceptions.ConnectionError):
            account.run(replace(SMALL, limited_seconds=1), progress=False)
    finally:
        server.stop()
    told = capsys.readouterr().err
    assert re.search(r"stack (concurrency-lab-combined-\w+): could not be destroyed", told)
    where = f"--engine aws --endpoint {server.endpoint_url} --region us-east-1"
    assert re.search(rf"`./lab destroy concurrency-lab-combined-\w+ {where}`", told)
    assert "not all that was measured could be kept" in told
    (kept,) = tmp_path.glob("interrupted-*.parquet")
    assert set(Trace.load(kept).metrics["metric"]) >= {"itemCounts.succeeded"}


def test_a_failed_deploy_whose_destroy_fails_tells_both(engine, monkeypatch, capsys):
    """The error is that of the deployment; the stack that may be left is named in it."""

    def fail(engine, waiter, name):
        raise exceptions.EndpointConnectionError(endpoint_url="https://nowhere")

    with monkeypatch.context() as patch:
        patch.setattr(stack, "_wait", fail)
        with pytest.raises(StackError, match=r"could not be deployed .*nowhere.*; stack (\S+) may be left"):
            stack.deploy(engine, "task_token")
    told = capsys.readouterr().err
    (name,) = stack.deployed(engine) or [re.search(r"stack (\S+):", told)[1]]
    assert f"stack {name}: could not be destroyed" in told
    stack.destroy(engine, name)


def test_a_second_interruption_leaves_word_of_the_stack(engine, monkeypatch, capsys):
    """Ctrl-C while a run's stack is destroyed: its name and the command that removes it are told."""
    wait = stack._wait

    def interrupted(engine, waiter, name):
        if "delete" in waiter:
            raise KeyboardInterrupt
        wait(engine, waiter, name)

    def run():
        with stack.deploy(engine, "task_token"):
            raise KeyboardInterrupt("the first")

    with monkeypatch.context() as patch:
        patch.setattr(stack, "_wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run()
    told = capsys.readouterr().err
    name = re.search(r"stack (\S+): may not be destroyed yet", told)[1]
    assert f"`./lab destroy {name} --engine embedded`" in told
    stack.destroy(engine, name)


def test_an_error_is_not_hidden_by_a_destroy_that_fails(engine, monkeypatch, capsys):
    """What went wrong in the block is what is raised."""

    def run():
        with stack.deploy(engine, "task_token"):
            raise ZeroDivisionError

    def fail(engine, name):
        raise StackError(f"stack {name}: could not be destroyed")

    with monkeypatch.context() as patch:
        patch.setattr(stack, "destroy", fail)
        with pytest.raises(ZeroDivisionError):
            run()
    name = re.search(r"stack (\S+): could not be destroyed", capsys.readouterr().err)[1]
    stack.destroy(engine, name)


# --- The command line ---


def lab(monkeypatch, *arguments: str) -> int:
    """The exit code of `lab` with these arguments, in this process."""
    monkeypatch.setattr(sys, "argv", ["lab", *arguments])
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as ended:
            cli.main()
    finally:
        signal.signal(signal.SIGTERM, handler)
    return ended.value.code or 0


def notebook(folder: Path, *cells: str, usd: float = 0.01) -> None:
    """A notebook of these cells, which says what it costs, in place of the course."""
    parameters = nbformat.v4.new_code_cell('engine: str = "embedded"  # where')
    parameters.metadata["tags"] = ["parameters"]
    path = f"import sys\nsys.path.append({str(Path(__file__).parent)!r})"
    code = [parameters, *(nbformat.v4.new_code_cell(cell) for cell in (path, *cells))]
    made = nbformat.v4.new_notebook(cells=code, metadata={"lab": {"usd": {"quick": usd}}})
    folder.mkdir()
    nbformat.write(made, folder / "01_small.ipynb")


HASTY = """
from helpers import Experiment, checks, connect, stack
from helpers.engines.aws import Aws
from helpers.engines.embedded import Server
from helpers.engines.pacing import QUOTAS, Bucket
Aws.poll_seconds, Aws.settle_seconds, Aws.log_seconds = 0.1, 0.0, 5.0
lab = connect(engine)
"""
RUN = """
few = Experiment(6, siphon_share=0.5, worker_concurrency=2, direct_seconds=0.02, limited_seconds=0.02)
checks.verify(lab.run(few, progress=False))
"""


def secrets(folder: Path, *texts: str) -> list[str]:
    """Where a planted secret is found: in these texts, or in a file of the folder."""
    planted = (os.environ["AWS_SECRET_ACCESS_KEY"], TOKEN)
    found = [path.name for path in folder.rglob("*") if path.is_file() for secret in planted
             if secret.encode() in path.read_bytes()]  # fmt: skip
    return found + [text for text in texts for secret in planted if secret in text]


def test_a_walkthrough_is_estimated_run_and_counted(engine, tmp_path, monkeypatch, capfd):
    """Its estimate is told first; results tell what it cost; no file and no output has a credential."""
    before = names(engine)
    notebook(tmp_path / "notebooks", HASTY, RUN)
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path / "notebooks")
    folder = tmp_path / "out"
    asked = ["run", "--engine", "aws", "--budget", "0.05", "--yes", "--out", str(folder)]
    code = lab(monkeypatch, *asked)
    told = capfd.readouterr()
    assert (code, names(engine)) == (0, before), told
    assert "1 notebooks: at most $0.0100 on AWS" in told.err
    assert "account 000000000000" in told.err
    assert "cost at most $0.00" in told.out
    [result] = json.loads((folder / "results.json").read_text())["results"]
    noted = [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]
    assert 0 < result["usd"] == pytest.approx(sum(line["usd"] for line in noted), abs=1e-6)
    assert result["usd"] <= 0.01
    assert secrets(folder, told.out, told.err) == []


def test_ctrl_c_destroys_what_the_notebook_had_deployed(engine, tmp_path, monkeypatch, capfd):
    """The kernel that would have done it is gone with the interruption: the command does it, and says so."""
    before = names(engine)
    notebook(tmp_path / "notebooks", HASTY, 'import time\nstack.deploy(lab, "task_token")\ntime.sleep(300)')
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path / "notebooks")

    def interrupt() -> None:
        while not stack.deployed(engine):
            time.sleep(0.1)
        time.sleep(1)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    folder = tmp_path / "out"
    code = lab(monkeypatch, "run", "--engine", "aws", "--budget", "1", "--yes", "--out", str(folder))
    thread.join(10)
    told = capfd.readouterr()
    assert code != 0
    assert re.search(r"destroyed concurrency-lab-task-token-\w+, which was left", told.err)
    assert names(engine) == before
    assert secrets(folder, told.out, told.err) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--yes"], "budget: not given"),
        (["--yes", "--budget", "0.005"], "estimate $0.0100: more than the $0.005000 left"),
        (["--yes", "--budget", "1", "--scale", "full"], "scale='full'"),
        (["--budget", "1"], "give --yes"),
    ],
)
def test_what_is_not_allowed_begins_nothing(engine, tmp_path, monkeypatch, capfd, arguments, words):
    """No budget, too small a one, an estimate that is not declared, or nobody to ask: refused with 2."""
    notebook(tmp_path / "notebooks", HASTY)
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path / "notebooks")
    code = lab(monkeypatch, "run", "--engine", "aws", "--out", str(tmp_path / "out"), *arguments)
    assert code == 2
    assert words in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 2), ("", 1)])
def test_the_account_is_confirmed(monkeypatch, capfd, answer, code):
    """In a terminal one is asked, after account, identity and region were told."""
    terminal = io.StringIO(answer)
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stdin", terminal)
    assert lab(monkeypatch, "destroy", "--all", "--engine", "aws") == code
    told = capfd.readouterr().err
    assert told.index("region us-east-1") < told.index("Is this the account")


def test_a_sweep_is_estimated_as_a_whole(tmp_path, monkeypatch, capfd):
    """Settings times repetitions, and one to warm up; more than the budget is refused before connecting."""
    one = Experiment(50, worker_concurrency=4)
    asked = ["sweep", "--set", "items=50", "--set", "worker_concurrency=2,4", "--repetitions", "2"]
    where = ["--engine", "aws", "--yes", "--out", str(tmp_path / "out")]
    monkeypatch.setattr("helpers.commands.places.connect", lambda *_, **__: pytest.fail("connected"))
    code = lab(monkeypatch, *asked, *where, "--budget", str(4 * budget.of_run(one)))
    assert code == 2
    told = capfd.readouterr().err
    assert "2 settings x 2, 4 runs to do and one to warm up: at most" in told
    assert "more than the" in told


def test_a_sweep_whose_budget_ends_can_be_resumed(tmp_path):
    """A run that the budget does not allow is not recorded as one that failed: it is still to do."""
    account = connect("aws", budget_usd=2.5 * budget.of_run(SMALL))
    whole = sweep.Sweep((SMALL,), repetitions=2)
    with pytest.raises(SweepError, match="resume the sweep"):
        sweep.run(account, whole, tmp_path / "sweep", progress=False)
    assert [name for name, _ in sweep.missing(whole, tmp_path / "sweep")] == ["s000-r01"]


def test_destroy_all_finds_whatever_is_left(engine, monkeypatch, capfd):
    """By their tag: stacks, whoever deployed them, and what is in no stack; what stays is named, with 1."""
    account = connect("aws", budget_usd=0)
    ours = stack.deploy(account, "task_token", {"Consumer": "fleet"})
    others = stack.deploy(engine, "sqs_limited", {})
    name = f"{stack.PREFIX}left-behind"
    url = engine.client("sqs").create_queue(QueueName=name, tags=stack.TAGS)["QueueUrl"]
    destroy = stack.destroy

    def fail(engine, name):
        if name == others.name:
            raise StackError(f"stack {name}: could not be destroyed")
        destroy(engine, name)

    with monkeypatch.context() as patch:
        patch.setattr(stack, "destroy", fail)
        assert lab(monkeypatch, "destroy", "--all", "--engine", "aws", "--yes") == 1
    told = capfd.readouterr()
    assert f"destroyed {ours.name}" in told.out
    assert f"removed arn:aws:sqs:us-east-1:000000000000:{name}" in told.out
    assert f"not removed: {others.name}" in told.err
    assert lab(monkeypatch, "destroy", "--all", "--engine", "aws", "--yes") == 0
    told = capfd.readouterr().out
    assert f"destroyed {others.name}" in told
    assert url not in engine.client("sqs").list_queues().get("QueueUrls", [])
    assert stack.deployed(engine) == []
    assert stack.orphans(engine) == []


def test_what_cannot_be_looked_for_is_no_success(monkeypatch, capfd):
    """A right that is missing, or a network that is gone, is told and is not taken for nothing left."""
    client = boto3.client("resourcegroupstaggingapi", region_name="us-east-1")
    real = Aws.client
    monkeypatch.setattr(
        Aws, "client", lambda self, name: client if name.startswith("resourcegroups") else real(self, name)
    )
    with Stubber(client) as stubbed:
        stubbed.add_client_error("get_resources", "AccessDeniedException", "no", 400)
        assert lab(monkeypatch, "destroy", "--all", "--engine", "aws", "--yes") == 1
    told = capfd.readouterr().err
    assert "AccessDeniedException" in told
    assert "not removed: what is in no stack" in told

    def fail(engine):
        raise exceptions.EndpointConnectionError(endpoint_url="https://nowhere")

    monkeypatch.setattr(stack, "deployed", fail)
    assert lab(monkeypatch, "destroy", "--all", "--engine", "aws", "--yes") == 2
    assert "error: Could not connect" in capfd.readouterr().err


def test_a_stack_tells_its_run(engine, monkeypatch):
    """Every stack has the lab's tag and that of its run, by which its run finds it again."""
    monkeypatch.setenv(stack.RUN, "monday")
    with stack.deploy(engine, "task_token", {"Consumer": "fleet"}) as deployed:
        assert stack.deployed(engine, "monday") == [deployed.name]
        assert stack.deployed(engine, "tuesday") == []
