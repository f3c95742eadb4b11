"""A real AWS account: boto3's default credential chain, a budget, and CloudWatch's metrics.

`connect("aws", profile=…, region=…, budget_usd=…)`. What is not given comes from the environment:
AWS_PROFILE, AWS_REGION or AWS_DEFAULT_REGION, LAB_BUDGET_USD. boto3 honours AWS_ENDPOINT_URL and its
relatives, so that an emulator can stand in for the account; no credential is sent to such an endpoint before
it is confirmed, see `Aws`.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any

import boto3
import botocore.session
from botocore import UNSIGNED, exceptions
from botocore.config import Config
from botocore.parsers import ResponseParserError

from helpers import budget
from helpers.console import say
from helpers.engines.base import Engine
from helpers.errors import BudgetError, EngineError, shown

BUDGET = "LAB_BUDGET_USD"
"""The environment variable that names a budget."""
CONFIRMED = "LAB_CONFIRMED_ENDPOINT"
"""The environment variable that lists, between commas, the endpoints that may get the user's credentials."""
SERVICES = (
    *("cloudformation", "cloudwatch", "dynamodb", "events", "iam", "lambda", "logs", "pipes"),
    *("resourcegroupstaggingapi", "s3", "sqs", "stepfunctions", "sts"),
    *("signin", "sso", "sso-oidc"),  # with sts, the services from which boto3 fetches credentials
)
"""The services whose endpoints are checked when connecting; any other is checked with its first client."""
# Adaptive: a client that is throttled slows all of its calls down; wide: one connection a concurrent caller.
CLIENT_CONFIG = Config(
    retries={"mode": "adaptive", "max_attempts": 10},
    max_pool_connections=1000,
    read_timeout=900,
    tcp_keepalive=True,
)
CONNECT_CONFIG = Config(retries={"mode": "standard", "max_attempts": 2}, connect_timeout=5, read_timeout=10)
"""For the first call, which is to tell soon what is wrong."""
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
"""Environment variables of credentials, which boto3 prefers to a profile that is named by one."""

PERIOD_SECONDS = 60
"""The resolution of CloudWatch's standard metrics."""
METRIC_SECONDS = 180
"""Assumed: how long metrics take until most can be read; those of a queue may take 15 minutes (SQS guide)."""

EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"}
INVALID = {"AuthFailure", "InvalidClientTokenId", "SignatureDoesNotMatch", "UnrecognizedClientException"}
CLOSED = {"OptInRequired", "RegionDisabledException", "SubscriptionRequiredException"}
NO_KEYS = (
    exceptions.NoCredentialsError,
    exceptions.PartialCredentialsError,
    exceptions.CredentialRetrievalError,
    exceptions.MetadataRetrievalError,
)
NO_TOKEN = (
    exceptions.SSOError,
    exceptions.TokenRetrievalError,
    exceptions.LoginError,
    exceptions.NoAuthTokenError,
)


class Aws(Engine):
    """An account and region of AWS.

    profile: of ~/.aws/config. region: such as "us-east-1". budget_usd: how much may be spent, as estimated,
    by all that shares its ledger (see `helpers.budget`); with 0 one can only look and remove. Prints account,
    identity and region on standard error. Raises EngineError, with the remedy, where there are no valid
    credentials, no such profile or region, or no answer, and BudgetError for a budget that is not one.

    Configuration can send boto3's signed calls elsewhere than to AWS: AWS_ENDPOINT_URL,
    AWS_ENDPOINT_URL_<SERVICE>, `endpoint_url` and `services` of a profile. An endpoint other than the one
    that botocore resolves for the service without these is refused, before credentials are even looked up,
    unless `endpoint` (or else LAB_CONFIRMED_ENDPOINT) names it, or `confirm` accepts it.

    Args:
        endpoint: The URLs that may get the credentials, between commas. Each must be configured.
        confirm: Asks a person about the endpoints that it is passed, in words, and returns the answer.
    """

    name = "aws"
    clock_seconds = 0.1
    """Assumed: services keep AWS's time to some milliseconds; a fleet's clock is this machine's."""
    poll_seconds = 2.0
    log_seconds = 120.0
    """Assumed: CloudWatch Logs promises no time; lines mostly come in seconds."""

    def __init__(
        self,
        profile: str | None = None,
        region: str | None = None,
        budget_usd: float | None = None,
        endpoint: str | None = None,
        confirm: Callable[[str], bool] | None = None,
    ) -> None:
        super().__init__()
        self.budget_usd = limit(budget_usd)
        self._profile, self._endpoint = profile, endpoint
        try:
            self._session = boto3.Session(
                profile_name=profile, region_name=region or os.environ.get("AWS_REGION") or None
            )
        except exceptions.ProfileNotFound as error:
            known = ", ".join(botocore.session.Session().available_profiles) or "none is there"
            name = profile or os.environ.get("AWS_PROFILE") or os.environ.get("AWS_DEFAULT_PROFILE")
            raise EngineError(
                f"profile {name!r}: not in ~/.aws/config nor ~/.aws/credentials, which have: {known}; "
                f"give one of these by --profile, or make it by `aws configure --profile {name}`"
            ) from error
        self.region = self._region()
        self._confirmed = _urls(endpoint or os.environ.get(CONFIRMED, ""))
        configured = self._check(SERVICES, confirm)
        if unknown := sorted(_urls(endpoint or "") - configured.keys()):
            raise EngineError(
                f"endpoint={shown(unknown[0])}: no service is configured to be called there; set "
                "AWS_ENDPOINT_URL to it, or leave it out to call AWS"
            )
        for words in _in_words(configured):
            say(f"confirmed endpoint {words}", err=True)
        self.identity, self.account = self._caller()
        self.endpoint_url = self.client("stepfunctions").meta.endpoint_url
        say(
            f"account {self.account} as {self.identity}, region {self.region}, at {self.endpoint_url}",
            err=True,
        )

    def _region(self) -> str:
        region = self._session.region_name
        if not region:
            raise EngineError(
                "no region: give one by --region (region=…), by AWS_REGION, or in the profile "
                "(`aws configure set region us-east-1`)"
            )
        known = [
            name
            for partition in self._session.get_available_partitions()
            for name in self._session.get_available_regions("stepfunctions", partition)
        ]
        if region not in known:
            near = ", ".join(get_close_matches(region, known)) or ", ".join(sorted(known))
            raise EngineError(
                f"region {region!r}: Step Functions is in none of that name; did you mean {near}? A new "
                "region needs a newer boto3"
            )
        return str(region)

    def _check(
        self, services: Iterable[str], confirm: Callable[[str], bool] | None = None
    ) -> dict[str, list[str]]:
        """Refuse each endpoint that configuration puts in place of AWS's and that nobody has confirmed.

        It neither looks up credentials nor calls anything.

        Args:
            services: The services to resolve, as boto3 names their clients.
            confirm: See `Aws`.

        Returns:
            The services that are not called at AWS's own endpoint, by the endpoint's URL.

        Raises:
            EngineError: An endpoint is not confirmed, or the configuration is not usable.
        """
        found: dict[str, list[str]] = {}
        for service in services:
            configured, own = self._resolve(service, None), self._resolve(service, True)
            if configured != own:
                found.setdefault(configured, []).append(service)
        unknown = {url: names for url, names in found.items() if url not in self._confirmed}
        if unknown and confirm and confirm(" and ".join(_in_words(unknown))):
            self._confirmed |= unknown.keys()
        elif unknown:
            confirmed = ",".join(sorted(found))
            raise EngineError(
                f"endpoint {' and '.join(_in_words(unknown))}: is not AWS's own, and calls that are signed "
                f"with your credentials go only where you confirm; unset it, or confirm by --endpoint "
                f"{confirmed} (endpoint={confirmed!r}, {CONFIRMED}={confirmed})"
            )
        return found

    def _resolve(self, service: str, ignored: bool | None) -> str:
        """Resolve a service's endpoint, without credentials.

        Args:
            service: The service, as boto3 names its client.
            ignored: Leave configured endpoints out; None does as the environment and the profile say.

        Raises:
            EngineError: The configuration is not usable, or names no URL.
        """
        config = Config(signature_version=UNSIGNED, ignore_configured_endpoint_urls=ignored)
        try:
            return str(self._session.client(service, config=config).meta.endpoint_url).rstrip("/")
        except (exceptions.BotoCoreError, ValueError) as error:
            raise EngineError(
                f"the endpoint of {service}: is not usable ({error}); correct AWS_ENDPOINT_URL, "
                "AWS_ENDPOINT_URL_<SERVICE>, or `endpoint_url` and `services` of the profile"
            ) from error

    def _caller(self) -> tuple[str, str]:
        """The ARN and the account of the credentials in use."""
        try:
            client = self._session.client("sts", config=CONNECT_CONFIG)
            caller = client.get_caller_identity()
        except (exceptions.ClientError, exceptions.BotoCoreError, ResponseParserError) as error:
            raise EngineError(self._why_refused(error)) from error
        return str(caller["Arn"]), str(caller["Account"])

    def _why_refused(self, error: Exception) -> str:
        profile = self._profile or os.environ.get("AWS_PROFILE")
        sign_in = f"aws sso login{f' --profile {profile}' if profile else ''}"
        code = error.response["Error"].get("Code", "") if isinstance(error, exceptions.ClientError) else ""
        if isinstance(error, NO_KEYS):
            return (
                f"no credentials ({error}): give them as boto3 finds them: --profile, `{sign_in}`, "
                "`aws configure`, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        if isinstance(error, NO_TOKEN) or code in EXPIRED:
            return f"the credentials have expired ({error}): renew them, for instance by `{sign_in}`"
        if code in INVALID:
            return (
                f"the credentials are not valid in {self.region} ({error}): check them, and that the region "
                "is enabled for the account (`aws account list-regions`), or choose another by --region"
            )
        if code in CLOSED:
            return (
                f"region {self.region}: is not enabled for the account ({error}); enable it, or choose "
                "another by --region"
            )
        if isinstance(error, exceptions.HTTPClientError | exceptions.ConnectionError):
            return f"no answer ({error}): check the network, the proxy, and the region {self.region}"
        return f"the account does not say who is asking ({error}); put that right and connect again"

    def _new_client(self, service: str) -> Any:
        self._check([service])
        return self._session.client(service, config=CLIENT_CONFIG)

    def shared(self) -> dict[str, str]:
        """The environment variables by which `connect` finds this same account in another process."""
        # boto3 would take keys from the environment before the profile; empty ones it does not.
        chosen = {"AWS_PROFILE": self._profile} | dict.fromkeys(KEYS, "") if self._profile else {}
        where = {"AWS_REGION": self.region, "AWS_DEFAULT_REGION": self.region}
        confirmed = {CONFIRMED: ",".join(sorted(self._confirmed))} if self._confirmed else {}
        return chosen | where | confirmed | {BUDGET: str(self.budget_usd)}

    def fleet_environment(self) -> dict[str, str]:
        """The environment in which a fleet process finds this account with plain boto3."""
        return dict(os.environ) | self.shared()

    def versions(self) -> dict[str, str]:
        """The versions of what a measurement depends on, and the region."""
        return super().versions() | {"region": self.region}

    def flags(self) -> str:
        """The options of `./lab` that name this account."""
        profile = f" --profile {self._profile}" if self._profile else ""
        endpoint = f" --endpoint {self._endpoint}" if self._endpoint else ""
        return f"--engine {self.name}{profile}{endpoint} --region {self.region}"

    def metrics(self, outputs: Mapping[str, str], began: float, ended: float) -> list[dict[str, Any]]:
        """CloudWatch's metrics of the run between these times (epoch seconds), as rows of Trace.metrics.

        outputs: the stack's. Their times are epoch seconds, too: the beginning of each minute. They come
        late: this looks every minute, for METRIC_SECONDS after the run at most, and says which are missing.
        A run of less than a minute has none.
        """
        if not ended - began >= PERIOD_SECONDS:  # nor one of which nothing came back
            return []
        asked = _queries(outputs)
        last_minute = ended // PERIOD_SECONDS * PERIOD_SECONDS
        rows: list[dict[str, Any]] = []
        try:
            while True:
                self.spend("CloudWatch's metrics", budget.of_metrics(len(asked)), quietly=True)
                rows = self._points(asked, began, ended)
                whole = {(row["metric"], row["resource"]) for row in rows if row["time"] >= last_minute}
                if len(whole) == len(asked) or time.time() > ended + METRIC_SECONDS:
                    break
                say("waiting for CloudWatch's metrics of the last minute", err=True)
                time.sleep(PERIOD_SECONDS)
        except (exceptions.ClientError, exceptions.BotoCoreError, BudgetError) as error:
            say(f"CloudWatch's metrics are left out: {error}", err=True)
        there = {(row["metric"], row["resource"]) for row in rows}
        if missing := [" of ".join(filter(None, key)) for key in asked if key not in there]:
            say(f"CloudWatch has none yet of: {', '.join(missing)}", err=True)
        return rows

    def _points(
        self, asked: Mapping[tuple[str, str], dict[str, Any]], began: float, ended: float
    ) -> list[dict[str, Any]]:
        keys = list(asked)
        queries = [{"Id": f"m{n}", "MetricStat": stat} for n, stat in enumerate(asked.values())]
        pages = (
            self.client("cloudwatch")
            .get_paginator("get_metric_data")
            .paginate(
                MetricDataQueries=queries,
                StartTime=began // PERIOD_SECONDS * PERIOD_SECONDS,
                EndTime=(ended // PERIOD_SECONDS + 1) * PERIOD_SECONDS,
                ScanBy="TimestampAscending",
            )
        )
        return [
            {"time": at.timestamp(), "metric": metric, "resource": resource, "value": value, "unit": "Count"}
            for page in pages
            for result in page["MetricDataResults"]
            for metric, resource in [keys[int(result["Id"][1:])]]
            for at, value in zip(result["Timestamps"], result["Values"], strict=True)
        ]


def _urls(listed: str) -> set[str]:
    """Split a list of URLs between commas."""
    return {url.strip().rstrip("/") for url in listed.split(",") if url.strip()}


def _in_words(endpoints: Mapping[str, list[str]]) -> list[str]:
    """Tell each endpoint with the services that are called there, and the variables that name it."""
    every = list(SERVICES)
    return [
        f"{shown(url)} (for {'every service' if services == every else ', '.join(services)}; "
        f"set by {', '.join(_setters(url))})"
        for url, services in endpoints.items()
    ]


def _setters(url: str) -> list[str]:
    """Find the environment variables that name this endpoint, or else the file that does."""
    variables = [
        name
        for name, value in os.environ.items()
        if name.startswith("AWS_ENDPOINT_URL") and value.rstrip("/") == url
    ]
    return sorted(variables) or [os.environ.get("AWS_CONFIG_FILE", "~/.aws/config")]


def limit(given: float | None) -> float:
    """The budget that is given, or else the environment's (US dollars). Raises BudgetError without one."""
    told = given if given is not None else os.environ.get(BUDGET)
    if told is None:
        raise BudgetError(
            "budget: not given, and nothing runs on a real account without one; give it in US dollars, by "
            "--budget 1.50 (budget_usd=1.50); with 0 one can only look and remove"
        )
    try:
        usd = float(told)
    except ValueError:
        usd = math.nan
    if not 0 <= usd < math.inf:
        raise BudgetError(f"budget {told!r}: must be a finite number of US dollars >= 0; give such a number")
    return usd


def _queries(outputs: Mapping[str, str]) -> dict[tuple[str, str], dict[str, Any]]:
    """What GetMetricData is asked for, by the metric's name and the output that names its resource."""
    wanted: list[tuple[str, str, str, dict[str, str]]] = []
    for name in ("ProcessFunction", "WorkerFunction"):
        if name in outputs:
            wanted.append(("AWS/Lambda", "ConcurrentExecutions", name, {"FunctionName": outputs[name]}))
    if "QueueUrl" in outputs:
        queue = {"QueueName": outputs["QueueUrl"].rpartition("/")[2]}
        for metric in ("ApproximateNumberOfMessagesVisible", "ApproximateNumberOfMessagesNotVisible"):
            wanted.append(("AWS/SQS", metric, "QueueUrl", queue))
    # Of the whole account in the region: others' Map Runs count, too.
    wanted.append(("AWS/States", "ApproximateOpenMapRunCount", "", {}))
    return {
        (metric, resource): {
            "Metric": {
                "Namespace": namespace,
                "MetricName": metric,
                "Dimensions": [{"Name": name, "Value": value} for name, value in dimensions.items()],
            },
            "Period": PERIOD_SECONDS,
            "Stat": "Maximum",
        }
        for namespace, metric, resource, dimensions in wanted
    }
