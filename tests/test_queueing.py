"""The queueing formulas: the textbook's closed forms, the chain they solve, and what is refused."""

import math
from fractions import Fraction

import numpy as np
import pytest
import synthetic  # noqa: F401  # its profile: a slow machine is no failing law
from hypothesis import given
from hypothesis import strategies as st

from helpers.errors import LabError
from helpers.queueing import erlang_c, mean_waiting, waiting_quantile

utilisations = st.floats(0.01, 0.99)
few_servers = st.integers(1, 40)
seconds = st.floats(0.001, 1000.0)


def chain(load, servers):
    """Probabilities of 0, 1, 2, … customers: each is the one before times a / min(customers, c)."""
    states = np.arange(1, servers + int(40 / (1 - load / servers)))
    logs = np.concatenate([[0.0], np.cumsum(np.log(load / np.minimum(states, servers)))])
    weights = np.exp(logs - logs.max())
    return weights / weights.sum()


@given(utilisations, seconds, st.floats(0.01, 0.99))
def test_one_server_is_the_textbooks_mm1(utilisation, service, share):
    """C = ρ, the mean wait is ρ / (μ - λ), and P(waiting > t) = ρ exp(-(μ - λ) t)."""
    arrivals, rate = utilisation / service, 1 / service
    assert utilisation == pytest.approx(erlang_c(1, utilisation))
    assert utilisation / (rate - arrivals) == pytest.approx(mean_waiting(arrivals, service, 1))
    found = waiting_quantile(arrivals, service, 1, share)
    longer = utilisation * math.exp(-(rate - arrivals) * found)
    assert longer == pytest.approx(1 - share) if found else longer <= 1 - share


@given(few_servers, utilisations)
def test_the_recursion_is_the_direct_sum(servers, utilisation):
    """Erlang's formula term by term, in exact fractions."""
    load = utilisation * servers
    a = Fraction(load)
    all_busy = a**servers / math.factorial(servers) * servers / (servers - a)
    some_idle = sum(a**k / math.factorial(k) for k in range(servers))
    assert float(all_busy / (some_idle + all_busy)) == pytest.approx(
        erlang_c(servers, load), rel=1e-12, abs=0
    )


@pytest.mark.parametrize(
    ("servers", "load", "expected"),
    [(2, 1, Fraction(1, 3)), (3, 2, Fraction(4, 9)), (4, 3, Fraction(27, 53)), (5, 4, Fraction(128, 231))],
)
def test_the_table_has_these_values(servers, load, expected):
    """One server more than the load, by hand: a**c / c! * c over that and the sum of a**k / k! below c."""
    assert float(expected) == pytest.approx(erlang_c(servers, load), rel=1e-15, abs=0)


@pytest.mark.parametrize(("servers", "load"), [(1_000, 990.0), (5_000, 4_999.0), (20_000, 19_000.0)])
def test_thousands_of_servers_are_as_exact(servers, load):
    """Where factorials overflow the sum of logarithms still tells."""
    logs = [k * math.log(load) - math.lgamma(k + 1) for k in range(servers)]
    all_busy = servers * math.log(load) - math.lgamma(servers + 1) + math.log(servers / (servers - load))
    others = math.fsum(math.exp(log - all_busy) for log in logs)
    assert 1 / (1 + others) == pytest.approx(erlang_c(servers, load), rel=1e-9, abs=0)


@given(few_servers, st.floats(0.05, 0.95), seconds)
def test_the_mean_is_that_of_the_chain_by_littles_law(servers, utilisation, service):
    """Mean number waiting, by the birth-death chain's own probabilities, over the arrivals a second."""
    load = utilisation * servers
    odds = chain(load, servers)
    waiting = (np.maximum(np.arange(len(odds)) - servers, 0) * odds).sum()
    arrivals = load / service
    assert waiting / arrivals == pytest.approx(mean_waiting(arrivals, service, servers), rel=1e-6, abs=0)


@given(few_servers, st.floats(0.05, 0.95), seconds, st.floats(0.01, 0.99))
def test_the_quantile_is_that_of_the_chain(servers, utilisation, service, share):
    """An arrival that finds all busy and k waiting waits for k + 1 of the ends, at c / s a second."""
    load = utilisation * servers
    found = waiting_quantile(load / service, service, servers, share)
    finds = chain(load, servers)[servers:]
    ends = servers / service * found  # expected in that time: fewer than k + 1 of them is Poisson's sum
    terms = np.concatenate([[-ends], np.log(max(ends, 1e-300) / np.arange(1, len(finds)))])
    waits_longer = (finds * np.exp(np.cumsum(terms)).cumsum()).sum()
    assert waits_longer == pytest.approx(1 - share, rel=1e-6) if found else waits_longer <= 1 - share


@given(few_servers, utilisations, utilisations, st.integers(1, 20))
def test_more_load_waits_more_and_more_servers_wait_less(servers, one, other, more):
    """C is a probability that rises with the load and falls with the servers, and so does the mean."""
    low, high = sorted((one * servers, other * servers))
    assert 0 < erlang_c(servers, low) <= erlang_c(servers, high) < 1
    assert erlang_c(servers + more, high) < erlang_c(servers, high)
    assert mean_waiting(low, 1.0, servers) <= mean_waiting(high, 1.0, servers)
    assert mean_waiting(high, 1.0, servers + more) < mean_waiting(high, 1.0, servers)


@given(few_servers, utilisations, seconds, st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_a_larger_share_waits_no_less(servers, utilisation, service, one, other):
    """A quantile rises with its share, from zero."""
    low, high = (
        waiting_quantile(utilisation * servers / service, service, servers, share)
        for share in sorted((one, other))
    )
    assert 0 <= low <= high


def test_an_unstable_queue_is_refused_with_the_inequality():
    """As many servers as load are too few, which theory's own numbers say."""
    with pytest.raises(LabError, match=r"offered_load=12: must be below servers=12.*add servers"):
        mean_waiting(24, 0.5, 12)
    assert mean_waiting(24, 0.5, 13) > 0


@pytest.mark.parametrize("wrong", [0, -1.0, math.nan, math.inf, 1e10, 10**400, True, "1", None])
def test_numbers_that_cannot_be_are_refused(wrong):
    """Zero, negative, no number or absurd: by name."""
    for name, call in {
        "offered_load": lambda: erlang_c(2, wrong),
        "servers": lambda: erlang_c(wrong, 0.5),
        "arrivals_per_second": lambda: mean_waiting(wrong, 1.0, 2),
        "service_seconds": lambda: waiting_quantile(1.0, wrong, 2, 0.5),
        "share": lambda: waiting_quantile(1.0, 1.0, 2, wrong),
    }.items():
        with pytest.raises(LabError, match=f"^{name}="):
            call()


@pytest.mark.parametrize("wrong", [1.5, 1_000_001])
def test_servers_are_counted(wrong):
    """A whole number, and no more than can be gone through."""
    with pytest.raises(LabError, match="servers"):
        erlang_c(wrong, 0.5)


def test_no_share_of_all_has_a_longest_wait():
    """Some wait for longer than any time, so 1 is no share to ask for."""
    with pytest.raises(LabError, match=r"share=1\.0"):
        waiting_quantile(1.0, 1.0, 2, 1.0)
