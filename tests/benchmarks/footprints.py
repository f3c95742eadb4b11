"""Measure what workers cost this machine: `python -m tests.benchmarks.footprints [--localstack]`.

Starts an engine of its own, warms FEW and then MANY Lambda environments of the combined workflow, and divides
the difference by their number: bytes of memory of their own (USS), processes and threads, file descriptors of
the engine, and processor seconds. Then starts a fleet of one process with all its threads. Prints one JSON
object; the constants of `helpers.engines.machine` are these numbers, rounded up.
"""

import argparse
import json
import os
import sys

import psutil

from helpers import Experiment, connect, live, stack
from helpers.engines import embedded, local, localstack, machine
from helpers.engines.base import Engine
from helpers.fleet import Fleet

FEW, MANY = 10, 60


def main() -> None:
    """Measure an engine's environments and a fleet's process, and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--localstack", action="store_true", help="LocalStack's in place of ministack's")
    name = "localstack" if parser.parse_args().localstack else "embedded"
    kind: type[local.Server] = localstack.Server if name == "localstack" else embedded.Server
    server = kind.start()
    try:
        with connect(name, endpoint=server.endpoint_url) as engine:
            process = psutil.Process(server.pid)
            few, many = (warmed(engine, process, workers) for workers in (FEW, MANY))
            environment = {key: (many[key] - few[key]) / (MANY - FEW) for key in many}
            report = {"cores": os.cpu_count(), "python": sys.version.split()[0], "environment": environment}
            print(json.dumps(report | {"fleet process": fleet(engine)}, indent=1))
    finally:
        server.stop()


def warmed(engine: Engine, server: psutil.Process, workers: int) -> dict[str, float]:
    """Return what the engine and its environments use while so many are warm."""
    experiment = Experiment(workers, siphon_share=1, worker_concurrency=workers)
    with stack.deploy(engine, "combined", stack.parameters(experiment)) as deployed:
        before = seconds(server)
        live.warm(deployed, "WorkerFunction", workers, progress=False)
        children = server.children(recursive=True)
        everyone = [server, *children]
        return {
            "memory": sum(one.memory_full_info().uss for one in everyone),
            "tasks": sum(one.num_threads() for one in everyone),
            "files": server.num_fds(),
            "cpu_seconds": seconds(server) - before + sum(map(seconds, children)),
        }


def fleet(engine: Engine) -> dict[str, float]:
    """Return what one process of a fleet uses, with as many threads as it may have."""
    workers = machine.THREADS_A_PROCESS
    experiment = Experiment(workers, siphon_share=1, worker_concurrency=workers, consumer="fleet")
    with (
        stack.deploy(engine, "combined", stack.parameters(experiment)) as deployed,
        Fleet(deployed, workers, 1) as started,
    ):
        live.send(deployed, live.payloads(experiment))
        live._drain(deployed, experiment.items, False, started)  # by then each thread has worked
        process = psutil.Process(started._processes[0].pid)
        numbers = process.memory_full_info().uss, process.num_threads(), process.num_fds(), seconds(process)
        return dict(zip(("memory", "tasks", "files", "cpu_seconds"), numbers, strict=True))


def seconds(process: psutil.Process) -> float:
    """Return the processor time that a process has used (seconds)."""
    return float(sum(process.cpu_times()[:2]))


if __name__ == "__main__":
    main()
