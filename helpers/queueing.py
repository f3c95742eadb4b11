"""What theory says of a queue with open arrivals: Poisson arrivals, exponential services, c servers (M/M/c).

`arrivals_per_second * service_seconds` is the offered load: servers that would be busy on average. The queue
is stable while it is below `servers`. All times are in seconds. Each function raises LabError for a number
that cannot be, and for a queue that is not stable.

Source: Kleinrock, "Queueing Systems", volume 1, 1975, the m-server case; Cooper, "Introduction to Queueing
Theory", 1981, the Erlang delay system.
"""

import math
from numbers import Integral, Real

from helpers.errors import LabError

__all__ = ["erlang_c", "mean_waiting", "waiting_quantile"]

MOST_SERVERS = 1_000_000
MOST = 1e9
"""Of arrivals a second, or of seconds: more is taken for a slip."""


def erlang_c(servers: int, offered_load: float) -> float:
    """The probability that an arrival has to wait: that all c servers are busy under the offered load a.

    By the recursion of Erlang's loss formula, B(k) = a B(k-1) / (k + a B(k-1)) from B(0) = 1, whose terms
    neither overflow nor cancel; then C = c B / (c B + (c - a) (1 - B)).
    """
    if not isinstance(servers, Integral) or isinstance(servers, bool) or not 1 <= servers <= MOST_SERVERS:
        raise LabError(
            f"servers={servers!r}: must be a whole number from 1 to {MOST_SERVERS:,}; give one in that range"
        )
    _check("offered_load", offered_load)
    if offered_load >= servers:
        raise LabError(
            f"offered_load={offered_load:g}: must be below servers={servers}, or the queue grows without "
            f"end; add servers, or lower the arrivals or their service time"
        )
    blocked = 1.0
    for busy in range(1, servers + 1):
        blocked = offered_load * blocked / (busy + offered_load * blocked)
    return servers * blocked / (servers * blocked + (servers - offered_load) * (1 - blocked))


def mean_waiting(arrivals_per_second: float, service_seconds: float, servers: int) -> float:
    """Mean waiting time (s) of all arrivals, those that do not wait included: C s / (c - a).

    service_seconds: mean service time of one server.
    """
    load = _offered_load(arrivals_per_second, service_seconds)
    return erlang_c(servers, load) * service_seconds / (servers - load)


def waiting_quantile(arrivals_per_second: float, service_seconds: float, servers: int, share: float) -> float:
    """The waiting time (s) that this share of the arrivals does not exceed, first come, first served.

    share: above 0 and below 1, such as 0.95. P(waiting > t) = C exp(-(c - a) t / s), solved for t; 0.0 where
    no more than 1 - share have to wait.
    """
    _check("share", share)
    if share >= 1:
        raise LabError(f"share={share!r}: must be below 1; the longest waiting time has no bound")
    load = _offered_load(arrivals_per_second, service_seconds)
    waits = erlang_c(servers, load)
    if waits <= 1 - share:
        return 0.0
    return math.log(waits / (1 - share)) * service_seconds / (servers - load)


def _offered_load(arrivals_per_second: float, service_seconds: float) -> float:
    _check("arrivals_per_second", arrivals_per_second)
    _check("service_seconds", service_seconds)
    return arrivals_per_second * service_seconds


def _check(name: str, value: float) -> None:
    if not isinstance(value, Real) or isinstance(value, bool) or not 0 < value <= MOST:
        raise LabError(f"{name}={value!r}: must be a number above 0 and at most {MOST:,.0f}; give one")
