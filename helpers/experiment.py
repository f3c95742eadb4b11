"""What to run: an Experiment says how many items, under which limits, with which task times and failures.

The plan of an experiment is a function of its seed and of each item's number, nothing else. So every engine
gives an item the same lane, time and failures, and two settings of a comparison differ only by the setting
(common random numbers).
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from numbers import Integral, Real
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from helpers.errors import InvalidExperiment, shown

__all__ = [
    "DIRECT_ATTEMPTS",
    "DISTRIBUTED_MAP_LIMIT",
    "Distribution",
    "Experiment",
    "empirical",
    "exponential",
    "lognormal",
    "mean_seconds",
]

Floats = npt.NDArray[np.float64]

DISTRIBUTED_MAP_LIMIT = 10_000
"""Children of one Map Run at once, what MaxConcurrency 0 means: Step Functions service quotas, 2026-11-24."""
BLOCK = 32_768
"""Items that are planned at once: what is drawn for so many stays in a processor's cache."""
_LANE = pd.CategoricalDtype(pd.Index(["direct", "limited"], dtype="str"))
YEAR_SECONDS = 31_536_000
"""What an execution may take at most, and so any time in it: Step Functions service quotas, 2026-11-24."""
BEATS_A_PERIOD = 3
"""Heartbeats that a worker sends in HeartbeatSeconds for each message of its batch (infra/sqs_limited)."""
DIRECT_ATTEMPTS = 5
"""Of a direct item: one and the four that the workflows' Retry allows."""
_TIME = f">= 0 and at most {YEAR_SECONDS:,} s", lambda seconds: 0 <= seconds <= YEAR_SECONDS
_POSITIVE = f"> 0 and at most {YEAR_SECONDS:,} s", lambda seconds: 0 < seconds <= YEAR_SECONDS


# The distributions are classes in lower case because they read as functions wherever a time is given.
@dataclass(frozen=True)
class lognormal:
    """Times in seconds whose logarithm is normal: `mean` of the times themselves, `sigma` of the logarithm.

    Raises InvalidExperiment unless 0 < mean <= YEAR_SECONDS and 0 <= sigma <= 10, which keeps every draw a
    finite float.
    """

    mean: float
    sigma: float

    def __post_init__(self) -> None:
        _set(self, "mean", _number("lognormal mean", self.mean, *_POSITIVE))
        _set(self, "sigma", _number("lognormal sigma", self.sigma, "from 0 to 10", lambda x: 0 <= x <= 10))

    def sample(self, u: Floats, v: Floats) -> Floats:
        """One time (s) for each pair of independent uniforms in (0, 1), by the Box-Muller transform."""
        normal = np.sqrt(-2.0 * np.log(u)) * np.cos(2.0 * np.pi * v)
        return np.asarray(np.exp(math.log(self.mean) - self.sigma**2 / 2 + self.sigma * normal))


@dataclass(frozen=True)
class exponential:
    """Memoryless times in seconds with this mean.

    Raises InvalidExperiment unless 0 < mean <= YEAR_SECONDS.
    """

    mean: float

    def __post_init__(self) -> None:
        _set(self, "mean", _number("exponential mean", self.mean, *_POSITIVE))

    def sample(self, u: Floats, v: Floats) -> Floats:
        """One time (s) for each uniform `u` in (0, 1), by inversion; `v` is not needed."""
        return np.asarray(-self.mean * np.log(u))


@dataclass(frozen=True)
class empirical:
    """Times in seconds drawn evenly from measured `values`.

    Raises InvalidExperiment if there are none, or one that is not from 0 to YEAR_SECONDS.
    """

    values: Sequence[float]

    def __post_init__(self) -> None:
        if not isinstance(self.values, Iterable) or isinstance(self.values, str):
            raise InvalidExperiment(
                f"empirical values={shown(self.values)}: they must be a list; give seconds."
            )
        values = tuple(_number("empirical value", value, *_TIME) for value in self.values)
        if not values:
            raise InvalidExperiment("empirical values=[]: at least one time is needed; give seconds.")
        _set(self, "values", values)  # a tuple, so that the record can be hashed

    @property
    def mean(self) -> float:
        """Mean of the values in seconds."""
        return math.fsum(self.values) / len(self.values)

    def sample(self, u: Floats, v: Floats) -> Floats:
        """One time (s) for each uniform `u` in (0, 1); `v` is not needed."""
        return np.asarray(self.values)[(u * len(self.values)).astype(np.int64)]


Distribution = lognormal | exponential | empirical


def mean_seconds(time: float | Distribution) -> float:
    """The mean of a service time that is a number or a distribution."""
    return time.mean if isinstance(time, Distribution) else time


_DISTRIBUTIONS = {kind.__name__: kind for kind in (lognormal, exponential, empirical)}

# name: (lowest, highest, where the range comes from)
_WHOLE_NUMBERS: dict[str, tuple[int, int, str]] = {
    "items": (1, 100_000_000, "items that one Map Run reads"),
    "map_concurrency": (
        0,
        DISTRIBUTED_MAP_LIMIT,
        "the Map's MaxConcurrency, 0 for AWS's own limit of 10,000",
    ),
    "worker_concurrency": (1, 1_000, "workers of the limited lane"),
    "batch_size": (1, 10_000, "BatchSize of the event source mapping"),
    "batch_window_seconds": (0, 300, "MaximumBatchingWindowInSeconds"),
    "function_timeout_seconds": (1, 900, "Lambda's Timeout"),
    "visibility_timeout_seconds": (0, 43_200, "SQS's VisibilityTimeout"),
    "redelivery_seconds": (0, 43_200, "SQS's ChangeMessageVisibility"),
    "max_receive_count": (1, 1_000, "maxReceiveCount of the redrive policy"),
    "task_timeout_seconds": (
        2,
        YEAR_SECONDS,
        "TimeoutSeconds, above a heartbeat of at least 1 s, at most the year that an execution may take",
    ),
    "task_attempts": (1, 100, "new task tokens for one item"),
    "seed": (0, 2**64 - 1, "64 bits"),
}


@dataclass(frozen=True)
class Experiment:
    """One run of the workflow, on whatever engine. Times are in seconds.

    items: elements of the map's input. map_concurrency: children at once, 0 for AWS's own limit of 10,000.
    siphon_share: share of the items that takes the limited lane, through the queue.
    worker_concurrency: workers of the limited lane at once. consumer: "lambda" (event source mapping with
    ScalingConfig.MaximumConcurrency) or "fleet" (long-polling workers).
    direct_seconds, limited_seconds: service time of one item in its lane, a number or a distribution.
    failure_rate: chance that one attempt fails transiently.
    batch_size, batch_window_seconds: what the consumer takes at once, and how long it gathers.
    function_timeout_seconds: Lambda's Timeout. visibility_timeout_seconds: how long a received message is
    hidden. redelivery_seconds: how long a worker hides a message again after a transient failure.
    max_receive_count: deliveries before a message goes to the dead-letter queue.
    task_timeout_seconds, heartbeat_seconds: TimeoutSeconds and HeartbeatSeconds of the callback task.
    cold_start: start the workers cold.
    task_attempts: how often a limited item is sent, each time with a new task token, as its task timed out;
    the lab's own workflow sends it once and leaves redelivery to the queue. arrivals_per_second: None where
    one Map Run has all items at the start; else they arrive one by one at this rate (a Poisson process).
    Only the simulated engine runs either.
    seed: names the draw of lanes, times, failures and arrivals.

    Raises InvalidExperiment with the value, the rule and the remedy. The ranges are those of the
    Step Functions, SQS and Lambda quotas as of 2026-11-24.
    """

    items: int
    map_concurrency: int = 0
    siphon_share: float = 0.5
    worker_concurrency: int = 100
    consumer: str = "lambda"
    direct_seconds: float | Distribution = 0.05
    limited_seconds: float | Distribution = 0.5
    failure_rate: float = 0.0
    batch_size: int = 1
    batch_window_seconds: int = 0
    function_timeout_seconds: int = 30
    visibility_timeout_seconds: int = 180
    redelivery_seconds: int = 1
    max_receive_count: int = 5
    task_timeout_seconds: int = 600
    heartbeat_seconds: int | None = None
    cold_start: bool = False
    task_attempts: int = 1
    arrivals_per_second: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, (low, high, source) in _WHOLE_NUMBERS.items():
            _set(self, name, _whole(name, getattr(self, name), low, high, source))
        _set(
            self,
            "siphon_share",
            _number("siphon_share", self.siphon_share, "from 0 to 1", lambda x: 0 <= x <= 1),
        )
        _set(
            self,
            "failure_rate",
            _number("failure_rate", self.failure_rate, ">= 0 and < 1", lambda x: 0 <= x < 1),
        )
        for name in ("direct_seconds", "limited_seconds"):
            if not isinstance(getattr(self, name), Distribution):
                _set(self, name, _number(name, getattr(self, name), *_TIME))
        if self.arrivals_per_second is not None:
            rule = "> 0, from 1e-9 to 1e9"
            rate = _number("arrivals_per_second", self.arrivals_per_second, rule, lambda x: 1e-9 <= x <= 1e9)
            _set(self, "arrivals_per_second", rate)
        if not isinstance(self.cold_start, bool):
            raise InvalidExperiment(
                f"cold_start={shown(self.cold_start)}: it must be True or False; give one of them."
            )
        self._check_consumer()
        if self.visibility_timeout_seconds < self.function_timeout_seconds:
            raise InvalidExperiment(
                f"visibility_timeout_seconds={self.visibility_timeout_seconds}: AWS refuses an event source "
                f"mapping whose queue hides messages for less than the function's timeout; give at least "
                f"{self.function_timeout_seconds}, better six times that, or lower function_timeout_seconds."
            )
        if self.heartbeat_seconds is not None:
            highest = self.task_timeout_seconds - 1
            heartbeat = _whole(
                "heartbeat_seconds", self.heartbeat_seconds, 1, highest, "below task_timeout_seconds"
            )
            _set(self, "heartbeat_seconds", heartbeat)

    def _check_consumer(self) -> None:
        consumer = self.consumer if isinstance(self.consumer, str) else None  # which compares like any text
        if consumer == "lambda":
            low, source = 2, "ScalingConfig.MaximumConcurrency of the event source mapping"
            _whole("worker_concurrency", self.worker_concurrency, low, 1_000, source)
            if self.batch_size > 10 and self.batch_window_seconds < 1:
                raise InvalidExperiment(
                    f"batch_size={self.batch_size}: Lambda wants a batching window of at least 1 s for "
                    f"batches over 10; set batch_window_seconds=1 or more, or batch_size=10 or less."
                )
        elif consumer == "fleet":
            _whole("batch_size", self.batch_size, 1, 10, "messages that one ReceiveMessage returns")
        else:
            raise InvalidExperiment(
                f"consumer={shown(self.consumer)}: the limited lane is emptied by 'lambda' (an event source "
                f"mapping) or 'fleet' (long-polling workers); give one of these."
            )

    @property
    def map_limit(self) -> int:
        """Children that may run at once: `map_concurrency`, or AWS's 10,000 where that is 0."""
        return self.map_concurrency or DISTRIBUTED_MAP_LIMIT

    def advice(self) -> tuple[str, ...]:
        """What AWS advises against in these settings though it allows them, one sentence each.

        Source: the Lambda developer guide, "services-sqs-configure" (six times the function's timeout plus
        the window; maxReceiveCount of at least 5), 2026-11-24.
        """
        found = []
        advised = 6 * self.function_timeout_seconds + self.batch_window_seconds
        if self.visibility_timeout_seconds < advised:
            found.append(
                f"visibility_timeout_seconds={self.visibility_timeout_seconds} leaves little room for "
                f"retries: AWS advises six times the function's timeout plus the window, {advised} s."
            )
        if self.max_receive_count < 5:
            found.append(
                f"max_receive_count={self.max_receive_count} sends messages to the dead-letter queue after "
                f"few deliveries: AWS advises at least 5."
            )
        for name, at_once in (("direct_seconds", 1), ("limited_seconds", self.batch_size)):
            time = getattr(self, name)
            if mean_seconds(time) * at_once > self.function_timeout_seconds:
                found.append(
                    f"{name}={time} with {at_once} item(s) at once takes longer on average than "
                    f"function_timeout_seconds={self.function_timeout_seconds}: Lambda ends such invocations."
                )
        return tuple(found)

    def plan(self) -> pd.DataFrame:
        """One row an item, in order.

        item: 0..items-1. lane: "direct" or "limited". task_seconds: service time of one attempt.
        failures: how many attempts fail transiently before one succeeds (geometric: k failures have
        probability failure_rate**k * (1 - failure_rate)).
        Neither the number of items nor any other setting moves an item's draw of lane, time or failures:
        a larger siphon_share only siphons more of the items, a larger failure_rate only adds failures.
        """
        limited, task_seconds = np.empty(self.items, np.bool_), np.empty(self.items)
        failures = np.zeros(self.items, np.int64)
        for block in self._blocks():
            limited[block] = self._uniform("lane", block) < self.siphon_share
            task_seconds[block] = np.where(limited[block], *self._times(block))
            if self.failure_rate > 0:
                failures[block] = np.log(self._uniform("failures", block)) / math.log(self.failure_rate)
        return pd.DataFrame(
            {
                "item": np.arange(self.items),
                "lane": pd.Categorical.from_codes(limited.view(np.int8), dtype=_LANE),
                "task_seconds": task_seconds,
                "failures": failures,
            },
            copy=False,
        )

    def most_attempts(self, limited: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """How often an item may be tried: as its queue or, where it is not `limited`, its Retry allows.

        A queue allows `max_receive_count` deliveries of each message, of which there are `task_attempts`.
        """
        return np.where(limited, self.max_receive_count * self.task_attempts, DIRECT_ATTEMPTS)

    def arrivals(self) -> Floats | None:
        """When each item arrives (s, ascending), or None where all are there at the start.

        The gaps between them are exponential, drawn as the plan is: more items only arrive later.
        """
        if self.arrivals_per_second is None:
            return None
        gaps = np.empty(self.items)
        for block in self._blocks():
            gaps[block] = -np.log(self._uniform("arrival", block)) / self.arrivals_per_second
        return gaps.cumsum(out=gaps)

    def _blocks(self) -> Iterator[slice]:
        return (slice(start, min(start + BLOCK, self.items)) for start in range(0, self.items, BLOCK))

    def _times(self, block: slice) -> tuple[Floats | float, Floats | float]:
        """What each item of the block would take in the limited lane, and in the direct one."""
        lanes = self.limited_seconds, self.direct_seconds
        drawn = any(isinstance(time, Distribution) for time in lanes)
        twice = any(isinstance(time, lognormal) for time in lanes)
        u = self._uniform("time", block) if drawn else np.empty(0)
        v = self._uniform("time, second", block) if twice else np.empty(0)
        limited, direct = (time.sample(u, v) if isinstance(time, Distribution) else time for time in lanes)
        return limited, direct

    def _uniform(self, stream: str, block: slice) -> Floats:
        """A uniform in (0, 1) for each item of a block: splitmix64 (Steele, Lea, Flood, 2014) counting."""
        start = (self.seed + (_STREAMS.index(stream) + 1) * _GAMMA) % 2**64
        key = _mix(np.array([start], np.uint64))
        numbers = np.arange(block.start + 1, block.stop + 1).astype(np.uint64)
        bits = _mix(key + numbers * np.uint64(_GAMMA))
        # 52 bits and a half: with 53 the largest value would round up to 1.
        return np.asarray(((bits >> np.uint64(12)) + 0.5) * 2.0**-52, np.float64)

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON-able values; a distribution becomes {"distribution": its name, ...}."""
        settings = {field.name: getattr(self, field.name) for field in fields(self)}
        for name, value in settings.items():
            if isinstance(value, Distribution):
                parameters = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(value).items()}
                settings[name] = {"distribution": type(value).__name__, **parameters}
        return settings

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> "Experiment":
        """The Experiment that `to_dict` described. Raises InvalidExperiment, also for an unknown key."""
        known = [field.name for field in fields(cls)]
        if not isinstance(settings, Mapping):
            raise InvalidExperiment(f"{shown(settings)} is no setting of an Experiment; give them by name.")
        for name in settings:
            if name not in known:
                raise InvalidExperiment(
                    f"{shown(name)} is no setting of an Experiment; the settings are {known}."
                )
        if "items" not in settings:
            raise InvalidExperiment("items is missing: an Experiment needs the number of items; add it.")
        return cls(**{name: _time_from(value) for name, value in settings.items()})


# The order numbers the streams, so a new one goes at the end: the draws of old seeds then stay.
_STREAMS = ("lane", "time", "time, second", "failures", "arrival")
_GAMMA = 0x9E3779B97F4A7C15


def _mix(z: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele, Lea and Flood, 2014)."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _time_from(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    parameters = dict(value)
    kind = _DISTRIBUTIONS.get(str(parameters.pop("distribution", None)))
    if kind is None or set(parameters) != {field.name for field in fields(kind)}:
        raise InvalidExperiment(
            f"{shown(dict(value))} is no distribution; give one as "
            "{'distribution': 'lognormal', 'mean': …, 'sigma': …}, "
            "{'distribution': 'exponential', 'mean': …} or {'distribution': 'empirical', 'values': […]}."
        )
    return kind(**parameters)


def _set(record: object, name: str, value: object) -> None:
    # The records are frozen, so their values can be normalised only like this, while they are made.
    object.__setattr__(record, name, value)


def _whole(name: str, value: object, low: int, high: int, source: str) -> int:
    if isinstance(value, Integral) and not isinstance(value, bool) and low <= int(value) <= high:
        return int(value)
    rule = f"it must be a whole number from {low:,} to {high:,} ({source})"
    raise InvalidExperiment(f"{name}={shown(value)}: {rule}; give one in that range.")


def _number(name: str, value: object, rule: str, accepts: Callable[[float], bool]) -> float:
    if isinstance(value, Real) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):  # a whole number beyond all floats is in no range
            if accepts(number := float(value)):
                return number
    raise InvalidExperiment(
        f"{name}={shown(value)}: it must be a finite number {rule}; give one in that range."
    )
