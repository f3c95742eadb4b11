"""How fast experiments are simulated: `python -m tests.benchmarks.simulation [--quick]`.

The simulator side by side with its plain Python twin and with SimPy, and what each feature costs, in turn in
one run: the best of REPETITIONS. Those that are compared must agree first. Compiled before anything is timed.
Prints one JSON object, and the same in Markdown on stderr. --quick: a thousandth of the items, to try it.
"""

import argparse
import json
import multiprocessing
import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import version

import numpy as np

from helpers import Experiment, Trace, exponential, metrics, simulate
from helpers.simulation import AWS_US_EAST_1, UNLIMITED
from helpers.trace import ATTEMPT_OUTCOMES, OUTCOMES
from tests.oracle_simpy import simulate_simpy
from tests.twin import simulate_twin

REPETITIONS = 5
QUOTAS = {"us-east-1": AWS_US_EAST_1, "unlimited": UNLIMITED}
LANES = {"direct only": 0.0, "siphon 0.5": 0.5, "limited only": 1.0}
TIMES = {
    "constant": {"direct_seconds": 0.05, "limited_seconds": 0.5},
    "exponential": {"direct_seconds": exponential(0.05), "limited_seconds": exponential(0.5)},
}


def main() -> None:
    """Measure everything and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    items = 1_000 if parser.parse_args().quick else 1_000_000
    # First, as a process inherits the peak memory of the one that starts it.
    many = in_a_process_of_its_own(10 * items)
    warm_up()
    report = {
        "machine": machine(),
        f"items a second, of {items:,} items": items_a_second(items),
        f"{10 * items:,} items": many,
        f"seconds of 200 settings of {items // 100:,} items": many_settings(items // 100),
        f"seconds of {10 * items:,} attempts": curve(10 * items),
        f"times the simulator's, of {items // 50:,} items": compared(items // 50),
        f"ns more an item, of {items:,} items": costs(items),
    }
    print(json.dumps(report, indent=1))
    print(table(report), file=sys.stderr)


def machine() -> dict[str, object]:
    """What the figures depend on."""
    versions = {name: version(name) for name in ("numpy", "numba", "pandas", "simpy")}
    return {"cores": os.cpu_count(), "python": platform.python_version(), **versions}


def warm_up() -> None:
    """Compile the simulator, and import what it imports at its first call."""
    simulate(Experiment(100))


def best(tasks: dict[str, Callable[[], object]]) -> dict[str, float]:
    """The least seconds of each task, all done in turn REPETITIONS times."""
    seconds = dict.fromkeys(tasks, np.inf)
    for _ in range(REPETITIONS):
        for name, task in tasks.items():
            began = time.perf_counter()
            task()
            seconds[name] = min(seconds[name], time.perf_counter() - began)
    return seconds


def items_a_second(items: int) -> dict[str, float]:
    """From the experiment to its trace, for each lane, time and place."""
    tasks = {}
    for place, quotas in QUOTAS.items():
        for kind, times in TIMES.items():
            for lane, share in LANES.items():
                experiment = Experiment(items, siphon_share=share, **times)
                tasks[f"{lane}, {kind}, {place}"] = lambda e=experiment, q=quotas: simulate(e, q)
    return {name: items / seconds for name, seconds in best(tasks).items()}


def in_a_process_of_its_own(items: int) -> dict[str, float]:
    """So many items, once: seconds, and the peak memory of all that the process did."""
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawned) as pool:
        return pool.submit(alone, items).result()


def alone(items: int) -> dict[str, float]:
    """What that process runs."""
    warm_up()
    before = peak_megabytes()
    began = time.perf_counter()
    simulate(Experiment(items, **TIMES["exponential"]))
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "peak MB": peak_megabytes(), "peak MB before": before}


def peak_megabytes() -> float:
    """The most memory that this process has had; the system counts in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def many_settings(items: int) -> dict[str, float]:
    """A sweep of 20 shares and 10 numbers of workers, on one thread and on two."""
    settings = [
        Experiment(items, siphon_share=share, worker_concurrency=workers, **TIMES["exponential"])
        for share in np.linspace(0.05, 1.0, 20)
        for workers in range(10, 110, 10)
    ]

    def on(threads: int) -> None:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(simulate, settings))

    return best({"1 thread": lambda: on(1), "2 threads": lambda: on(2)})


def curve(attempts: int) -> dict[str, float]:
    """The exact count of attempts under way, at every moment."""
    random = np.random.default_rng(1)
    starts = random.uniform(0, attempts / 100, attempts)
    ends = starts + random.exponential(0.5, attempts)
    return best({"exact curve": lambda: metrics.steps(starts, ends)})


def compared(items: int) -> dict[str, float]:
    """How many times as long the twin and SimPy take for what all know, once their results are equal."""
    experiment = Experiment(
        items,
        map_concurrency=1_000,
        task_timeout_seconds=1_000_000,
        function_timeout_seconds=900,
        visibility_timeout_seconds=43_200,
        **TIMES["exponential"],
    )
    latencies = {"invoke_seconds": 0.013, "send_seconds": 0.011, "receive_seconds": 0.017}
    latencies |= {"answer_seconds": 0.019, "return_seconds": 0.023}
    quotas = replace(UNLIMITED, children_per_second=1_000.0, **latencies)
    trace = simulate(experiment, quotas)
    assert_twin_is(trace, *simulate_twin(experiment, quotas))
    for name, times in simulate_simpy(experiment, quotas).items():
        np.testing.assert_array_equal(times, trace.items[name], name)
    seconds = best(
        {
            "simulator": lambda: simulate(experiment, quotas),
            "twin": lambda: simulate_twin(experiment, quotas),
            "simpy": lambda: simulate_simpy(experiment, quotas),
        }
    )
    return {name: seconds[name] / seconds["simulator"] for name in ("twin", "simpy")}


def assert_twin_is(trace: Trace, items: dict[str, list], attempts: dict[str, list]) -> None:
    """All columns of both tables, to the last bit."""
    items["attempts"] = items.pop("count")
    items["outcome"] = [OUTCOMES[code] for code in items["outcome"]]
    attempts["outcome"] = [ATTEMPT_OUTCOMES[code] for code in attempts["outcome"]]
    attempts["worker"] = ["direct" if slot < 0 else f"worker-{slot}" for slot in attempts["worker"]]
    for expected, found in ((items, trace.items), (attempts, trace.attempts)):
        for name, column in expected.items():
            np.testing.assert_array_equal(column, found[name].to_numpy(), name)


def costs(items: int) -> dict[str, float]:
    """Nanoseconds an item that a feature adds to the limited lane alone, in us-east-1.

    The children start at 100 a second, so some 53 of the 100 workers are busy: the small bucket and the small
    account throttle much, yet let all items through.
    """
    plain = Experiment(items, siphon_share=1, **TIMES["exponential"])
    variants = {
        "plain": (plain, AWS_US_EAST_1),
        "heartbeats": (replace(plain, heartbeat_seconds=2), AWS_US_EAST_1),
        "failures (0.1)": (replace(plain, failure_rate=0.1), AWS_US_EAST_1),
        "batches of 10, window 1 s": (replace(plain, batch_size=10, batch_window_seconds=1), AWS_US_EAST_1),
        "cold starts (0.5)": (replace(plain, cold_start=True), replace(AWS_US_EAST_1, cold_start_share=0.5)),
        "throttled answers (half)": (plain, replace(AWS_US_EAST_1, task_burst=1.0, task_per_second=105.0)),
        "throttled invocations (most)": (plain, replace(AWS_US_EAST_1, account_concurrency=54.0)),
        "open arrivals": (replace(plain, arrivals_per_second=90.0), AWS_US_EAST_1),
    }
    seconds = best({name: lambda v=variant: simulate(*v) for name, variant in variants.items()})
    plain_seconds = seconds.pop("plain")
    more = {name: (took - plain_seconds) / items * 1e9 for name, took in seconds.items()}
    return {"plain, in all": plain_seconds / items * 1e9, **more}


def table(report: dict[str, dict[str, object]]) -> str:
    """The report in Markdown."""
    lines = ["| what | figure |", "|---|---|"]
    for what, found in report.items():
        for name, value in found.items():
            figure = f"{value:,.{0 if value >= 1000 else 3}f}" if isinstance(value, float) else value
            lines.append(f"| {what}: {name} | {figure} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
