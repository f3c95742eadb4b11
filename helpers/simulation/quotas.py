"""What the simulated AWS allows and how long its own steps take; every figure has a source and a date.

Override any with `dataclasses.replace(AWS_US_EAST_1, children_per_second=1000)`.
"""

import math
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from helpers.errors import LabError, shown

__all__ = [
    "AWS_OTHER_REGIONS",
    "AWS_US_EAST_1",
    "EMBEDDED",
    "NEW_ACCOUNT",
    "OLDER_MAPPING",
    "PRESETS",
    "PROVISIONED_MAPPING",
    "UNLIMITED",
    "Quotas",
    "sources",
]

DATE = "2026-11-24"
FINITE = (
    *("map_start_seconds", "cold_start_seconds", "invoke_seconds", "send_seconds", "receive_seconds"),
    *("answer_seconds", "return_seconds", "mapping_per_minute", "throttle_retry_seconds"),
)
SWITCHES = ("ramp_stepped", "throttles_receive")
WHOLE = ("account_concurrency", "mapping_start", "mapping_limit", "in_flight_limit")
_SFN = "Step Functions service quotas"
_LAMBDA = "Lambda developer guide, lambda-concurrency"
_SCALING = "Lambda developer guide, services-sqs-scaling"
_SQS = "SQS developer guide, quotas-messages"
_ASSUMED = "assumed: AWS documents no such time"


def _figure(default: float, source: str) -> Any:
    return field(default=default, metadata={"source": source})


@dataclass(frozen=True, kw_only=True)
class Quotas:
    """Limits and times of a place where the combined pattern runs. Counts, rates a second, or seconds.

    math.inf means unlimited. A bucket allows `burst` calls at once and `per_second` from then on.

    children_per_second: Standard child executions that a Map Run starts at most. map_start_seconds: before
    the first of them. account_concurrency: functions at once, those of both lanes. environments_*: new ones
    of one function. cold_start_seconds: what a new one takes before it serves; cold_start_share: invocations
    that get a new one though another is idle. mapping_start, mapping_per_minute, mapping_limit: invocations
    at once of the event source mapping: at first, more each minute, and at most. ramp_stepped: whether it
    grows at each whole minute (not documented; else evenly). throttle_retry_seconds: until the mapping tries
    a refused invocation again. throttles_receive: whether each such try counts as a receive of its messages
    (not documented; else it is one for all until the visibility timeout). in_flight_limit: messages received
    and not deleted. task_*: SendTaskSuccess, and the same again SendTaskHeartbeat. transitions_*:
    StateTransition. invoke_seconds: from the child's start to its function's. send_seconds: until its message
    is in the queue. receive_seconds: from a visible message and an idle worker to the task's start.
    answer_seconds: from an answer to the worker's next message, and to the child's end. return_seconds: from
    the end of the direct lane's function to the child's.
    Raises LabError for a figure that is negative, not a number, or contradicts another.
    """

    map_start_seconds: float = _figure(0.0, _ASSUMED)
    children_per_second: float = _figure(100.0, f"{_SFN}: child execution dispatch rate")
    account_concurrency: float = _figure(1_000.0, f"{_LAMBDA}: account concurrency")
    environments_burst: float = _figure(1_000.0, f"{_LAMBDA}: 1,000 environments every 10 s")
    environments_per_second: float = _figure(100.0, f"{_LAMBDA}: 1,000 environments every 10 s")
    cold_start_seconds: float = _figure(0.3, "www.arcadegame.cloud, Python 3.12: 0.15 to 0.5 s")
    cold_start_share: float = _figure(0.0, "below 0.01 by AWS's own analysis, quoted by medium.com/@adtanasa")
    mapping_start: float = _figure(5.0, _SCALING)
    mapping_per_minute: float = _figure(300.0, _SCALING)
    mapping_limit: float = _figure(1_250.0, _SCALING)
    ramp_stepped: bool = field(default=False, metadata={"source": "assumed: AWS documents no shape"})
    throttle_retry_seconds: float = _figure(1.0, _ASSUMED)
    throttles_receive: bool = field(
        default=False, metadata={"source": "assumed from services-sqs-errorhandling, which does not say"}
    )
    in_flight_limit: float = _figure(120_000.0, f"{_SQS}: messages in flight, standard queue")
    task_burst: float = _figure(3_000.0, f"{_SFN}: SendTaskSuccess, bucket")
    task_per_second: float = _figure(500.0, f"{_SFN}: SendTaskSuccess, refill")
    transitions_burst: float = _figure(5_000.0, f"{_SFN}: StateTransition, bucket")
    transitions_per_second: float = _figure(5_000.0, f"{_SFN}: StateTransition, refill")
    invoke_seconds: float = _figure(0.02, _ASSUMED)
    send_seconds: float = _figure(0.02, _ASSUMED)
    receive_seconds: float = _figure(0.02, _ASSUMED)
    answer_seconds: float = _figure(0.02, _ASSUMED)
    return_seconds: float = _figure(0.02, _ASSUMED)

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name in SWITCHES:
                if not isinstance(value, bool):
                    raise LabError(f"{one.name}={shown(value)}: must be True or False; give one of them")
            elif not _is_figure(value):
                raise LabError(f"{one.name}={shown(value)}: must be a number >= 0; give one, or math.inf")
            elif one.name in FINITE and math.isinf(value):
                raise LabError(f"{one.name}={value!r}: must be finite; give a number")
            elif one.name in WHOLE and value % 1 > 0:
                raise LabError(f"{one.name}={value!r}: counts things; give a whole number, or math.inf")
        for name in (
            "children_per_second",
            "environments_per_second",
            "task_per_second",
            "throttle_retry_seconds",
        ):
            self._at_least(name, 1e-6, "or nothing would ever start or end")
        self._at_least("account_concurrency", 1, "or no function could run")
        self._at_least("in_flight_limit", 1, "or no message could be received")
        self._at_least("mapping_start", 1, "or the mapping would never poll")
        self._at_least("transitions_per_second", 1e-6, "or no child could go on")
        self._at_least("transitions_burst", 1, "or the bucket could hold no call")
        self._at_least("task_burst", 1, "or the bucket could hold no call")
        self._at_least("environments_burst", 1, "or no environment could start")
        if self.cold_start_share > 1:
            raise LabError(f"cold_start_share={self.cold_start_share!r}: is a share; give one from 0 to 1")
        if self.mapping_start > self.mapping_limit:
            raise LabError(
                f"mapping_start={self.mapping_start:g}: must not be above mapping_limit="
                f"{self.mapping_limit:g}; lower the one or raise the other"
            )
        if self.mapping_per_minute == 0 and self.mapping_start < self.mapping_limit:
            raise LabError(
                f"mapping_per_minute=0: then mapping_limit={self.mapping_limit:g} is never reached from "
                f"mapping_start={self.mapping_start:g}; make them equal"
            )

    def to_dict(self) -> dict[str, float | bool | None]:
        """The figures as JSON-able values; None is unlimited."""
        return {name: None if math.isinf(value) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, figures: Mapping[str, Any]) -> "Quotas":
        """The Quotas that `to_dict` described. Raises LabError, also for an unknown or missing figure."""
        known = [one.name for one in fields(cls)]
        if not isinstance(figures, Mapping):
            raise LabError(f"{shown(figures)}: no figures of Quotas; calibrate again")
        if wrong := sorted(set(figures) ^ set(known)):
            raise LabError(
                f"{', '.join(wrong)}: each figure of Quotas must be there, and no other; "
                "calibrate again, or write what Quotas.to_dict gives"
            )
        values: dict[str, Any] = {name: math.inf if v is None else v for name, v in figures.items()}
        return cls(**values)

    def _at_least(self, name: str, low: float, reason: str) -> None:
        if getattr(self, name) < low:
            raise LabError(f"{name}={getattr(self, name)!r}: must be at least {low:g}, {reason}")


def _is_figure(value: object) -> bool:
    """Whether it is a number >= 0, or unlimited; an integer beyond all floats is neither."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 <= value <= sys.float_info.max or value == math.inf


def sources() -> dict[str, str]:
    """Where the default of each figure of Quotas was read, all on DATE."""
    return {one.name: one.metadata["source"] for one in fields(Quotas)}


AWS_US_EAST_1 = Quotas()
"""us-east-1, us-west-2 and eu-west-1, which have the same quotas."""

AWS_OTHER_REGIONS = Quotas(
    task_burst=1_500.0, task_per_second=300.0, transitions_burst=800.0, transitions_per_second=800.0
)
"""The other regions (Step Functions service quotas, 2026-11-24)."""

NEW_ACCOUNT = Quotas(account_concurrency=10.0)
"""A new account in a large region. That it has less than 1,000 is documented (Lambda developer guide); how
much is not: 10 is what new accounts report."""

OLDER_MAPPING = Quotas(mapping_per_minute=60.0, mapping_limit=1_000.0)
"""A large region with the event source mapping of 2023, which most tutorials still tell of
(az-liftshift.com, "Introducing maximum concurrency of AWS Lambda functions")."""

PROVISIONED_MAPPING = Quotas(mapping_start=20.0, mapping_per_minute=1_000.0, mapping_limit=2_000.0)
"""A large region with the mapping in provisioned mode: 2 to 200 pollers, its defaults, of 10 invocations each
(Lambda developer guide, services-sqs-scaling). AWS excludes MaximumConcurrency there: the pollers limit."""

UNLIMITED = Quotas(
    children_per_second=math.inf,
    account_concurrency=math.inf,
    environments_burst=math.inf,
    environments_per_second=math.inf,
    cold_start_seconds=0.0,
    mapping_start=1_000.0,
    mapping_limit=1_000.0,
    in_flight_limit=math.inf,
    task_burst=math.inf,
    task_per_second=math.inf,
    transitions_burst=math.inf,
    transitions_per_second=math.inf,
    invoke_seconds=0.0,
    send_seconds=0.0,
    receive_seconds=0.0,
    answer_seconds=0.0,
    return_seconds=0.0,
)
"""Nothing but the experiment's own limits: what queueing formulas assume."""

EMBEDDED = replace(
    UNLIMITED,
    map_start_seconds=0.16,
    children_per_second=590.0,
    transitions_burst=4.0,
    transitions_per_second=1_610.0,
    invoke_seconds=0.0013,
    send_seconds=0.0002,
    receive_seconds=0.0030,
    answer_seconds=0.0017,
    return_seconds=0.0002,
)
"""The embedded engine with consumer="lambda" and warm workers: `./lab calibrate`, 2026-11-25, on a virtual
machine with two cores. Another machine has other figures: calibrate there."""

PRESETS = {
    "embedded": EMBEDDED,
    "us-east-1": AWS_US_EAST_1,
    "other-regions": AWS_OTHER_REGIONS,
    "new-account": NEW_ACCOUNT,
    "older-mapping": OLDER_MAPPING,
    "provisioned-mapping": PROVISIONED_MAPPING,
    "unlimited": UNLIMITED,
}
"""The quotas that go by a name."""
