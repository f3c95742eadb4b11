"""A real account: who one is, what may be spent, what is left. An emulator stands in for the account."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import boto3
import pytest
from botocore import exceptions
from botocore.stub import Stubber

from helpers import budget, checks, cost, live, stack
from helpers.engines import aws, connect
from helpers.engines.aws import Aws
from helpers.errors import BudgetError, EngineError
from helpers.experiment import Experiment
from helpers.trace import Trace

SECRET = "wJalrXUtnFEMI/K7MDENG/bPlantedSECRETkey"
TOKEN = "FwoGZXIvYXdzPlantedSESSIONtokenEJr"
SMALL = Experiment(
    8, siphon_share=0.5, map_concurrency=4, worker_concurrency=2, direct_seconds=0.02, limited_seconds=0.05
)


@pytest.fixture(autouse=True)
def account(engine, tmp_path, monkeypatch) -> None:
    """The session's engine as an account: dummy credentials, a region, a new ledger, and no waiting."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "LAB_"))]:
        monkeypatch.delenv(name)
    config = tmp_path / "config"
    config.write_text("[profile other]\nregion = eu-west-1\n")
    for name, value in {
        "AWS_ENDPOINT_URL": engine.endpoint_url,
        "AWS_ACCESS_KEY_ID": "AKIAPLANTED",
        "AWS_SECRET_ACCESS_KEY": SECRET,
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


def test_region_and_profile_are_those_that_were_given(monkeypatch, tmp_path):
    """What is given goes before the environment, that before the profile; other processes get the same."""
    (tmp_path / "credentials").write_text("[other]\naws_access_key_id = OTHER\naws_secret_access_key = o\n")
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
    assert ran.stdout == "OTHER eu-west-1\n"


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
    told = refusal(region="eu-west-1")
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
    trace = account.run(SMALL, progress=False)
    checks.verify(trace)
    assert (trace.engine, trace.versions["region"]) == ("aws", "us-east-1")
    told = capsys.readouterr().err
    assert f"at most {budget.dollars(budget.of_run(SMALL))} on AWS" in told
    assert budget.dollars(0.5 - budget.of_run(SMALL)) + " is then left of the budget $0.5000" in told
    assert spent() == pytest.approx(budget.of_run(SMALL))
    assert cost.total(cost.of(trace)) <= spent()
    assert names(engine) == before
    # Map Runs were counted on the way.
    counted = trace.metrics[trace.metrics["metric"] == "itemCounts.succeeded"]["value"]
    assert counted.is_monotonic_increasing
    assert counted.max() <= len(trace.items)
    assert Trace.load(trace.save(tmp_path / "trace.parquet")).metrics.equals(trace.metrics)


def test_a_fleet_finds_the_account_by_itself():
    """Workers on this machine use the credentials of the same chain."""
    account = connect("aws", budget_usd=0.5)
    trace = account.run(Experiment(6, siphon_share=1, worker_concurrency=2, consumer="fleet"), progress=False)
    checks.verify(trace)


def test_spending_adds_up_over_processes(tmp_path):
    """Processes that share a ledger share a budget: never do they spend more, however many begin at once."""
    program = """
from helpers import budget
from helpers.errors import BudgetError
for _ in range(30):
    try:
        budget.spend("a run", 0.01, 0.5, quietly=True)
    except BudgetError:
        pass
"""
    running = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(2)]
    assert [process.wait() for process in running] == [0, 0]
    assert spent() == pytest.approx(0.5)
    assert len(budget.noted()) == 50


def test_a_line_that_a_crash_cut_short_costs_no_other_line(tmp_path):
    """What was noted before and after it is read."""
    budget.spend("one", 1.0)
    with (tmp_path / "ledger.jsonl").open("a") as file:
        file.write('{"time": "2026-')
    budget.spend("two", 2.0)
    budget.spend("three", 3.0)
    assert [entry["what"] for entry in budget.noted()] == ["one", "two", "three"]


def test_without_a_ledger_it_adds_up_over_the_process(monkeypatch):
    """Where no file is named, one process has one budget, whoever connects."""
    monkeypatch.delenv(budget.LEDGER)
    monkeypatch.setattr(budget, "_process", [])
    for _ in range(2):
        connect("aws", budget_usd=1).spend("a run", 0.4)
    with pytest.raises(BudgetError, match=r"\$0\.3000: more than the \$0\.2000 left of the budget \$1\.00"):
        connect("aws", budget_usd=1).spend("a run", 0.3)


def test_threads_share_a_budget():
    """Nothing is lost between threads."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: budget.spend("a call", 0.25), range(40)))
    assert spent() == 10.0


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
