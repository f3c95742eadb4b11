"""How near the limited lane comes to its ideal: `python -m tests.benchmarks.efficiency`.

Efficiency is ideal makespan / measured makespan, ideal being work / workers. Warm workers, both
consumers side by side in one run on one engine, each setting several times in turn; the medians are
what to quote. Prints one JSON object.
"""

import json
import os
import statistics

from helpers import Experiment, checks, connect, metrics

REPETITIONS = 3
SETTINGS = {
    "20 workers x 0.5 s x 400 items": Experiment(
        400, siphon_share=1, map_concurrency=100, worker_concurrency=20, limited_seconds=0.5
    ),
    "100 workers x 1 s x 1,000 items": Experiment(
        1000, siphon_share=1, map_concurrency=200, worker_concurrency=100, limited_seconds=1
    ),
}


def main() -> None:
    """Run every setting with every consumer REPETITIONS times; every trace must obey the laws."""
    measured: dict[str, dict[str, list[float]]] = {}
    with connect("embedded") as engine:
        for _ in range(REPETITIONS):
            for name, setting in SETTINGS.items():
                for consumer in ("lambda", "fleet"):
                    experiment = Experiment.from_dict(setting.to_dict() | {"consumer": consumer})
                    trace = engine.run(experiment, progress=False)
                    checks.verify(trace)
                    found = metrics.summary(trace)["efficiency"]
                    measured.setdefault(name, {}).setdefault(consumer, []).append(round(found, 3))
        versions = engine.versions()
    medians = {
        name: {consumer: statistics.median(values) for consumer, values in by.items()}
        for name, by in measured.items()
    }
    report = {"median": medians, "measured": measured, "cores": os.cpu_count(), "versions": versions}
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
