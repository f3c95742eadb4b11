"""The core of the model as SimPy processes, to hold the simulator against."""

import math
from collections.abc import Callable, Iterator

import simpy

from helpers.experiment import Experiment


def simulate_simpy(experiment: Experiment, quotas: object) -> dict[str, list[float]]:
    """arrival, service_start, service_end, returned (s) of each item in order.

    Knows the map's limit and start, children_per_second, the latencies and the limited lane's workers. For
    experiments without failures, batches, timeouts and cold starts, whose other quotas are out of reach.
    """
    plan = experiment.plan()
    env = simpy.Environment()
    children = simpy.Resource(env, experiment.map_limit)
    workers = simpy.Resource(env, experiment.worker_concurrency)
    columns = ("arrival", "service_start", "service_end", "returned")
    times = {column: [math.nan] * experiment.items for column in columns}

    def the_map() -> Iterator[simpy.Event]:
        yield env.timeout(quotas.map_start_seconds)
        for i, (lane, seconds) in enumerate(zip(plan["lane"], plan["task_seconds"], strict=True)):
            place = children.request()
            yield place
            env.process(child(i, limited if lane == "limited" else direct, seconds, place))
            yield env.timeout(1.0 / quotas.children_per_second)

    def child(i: int, lane: Callable, seconds: float, place: simpy.Event) -> Iterator[simpy.Event]:
        times["arrival"][i] = env.now
        yield from lane(i, seconds)
        times["returned"][i] = env.now
        children.release(place)

    def direct(i: int, seconds: float) -> Iterator[simpy.Event]:
        yield env.timeout(quotas.invoke_seconds)
        yield from serve(i, seconds)
        yield env.timeout(quotas.return_seconds)

    def limited(i: int, seconds: float) -> Iterator[simpy.Event]:
        yield env.timeout(quotas.send_seconds)
        with workers.request() as worker:
            yield worker
            yield env.timeout(quotas.receive_seconds)
            yield from serve(i, seconds)
            yield env.timeout(quotas.answer_seconds)

    def serve(i: int, seconds: float) -> Iterator[simpy.Event]:
        times["service_start"][i] = env.now
        yield env.timeout(seconds)
        times["service_end"][i] = env.now

    env.process(the_map())
    env.run()
    return times
