"""The embedded engine's server process: the pinned ministack with AWS's behaviour put right.

`helpers.engines.embedded` starts this folder as a program of its own, which imports none of the lab.
Each correction is one function that wraps one of ministack's, for what the lessons rely on and the
emulator leaves out; each has its test in tests/test_embedded*.py. They are written for one release of
ministack, and of hypercorn, its HTTP server; the server refuses to start on another.
"""

import os
import resource
import sys
from importlib.metadata import version

import callbacks
import functions
import histories
import map_runs
import maps
import payloads
import permissions
import refusals
import scale
import states
import stopping
import tags
import walls

WRITTEN_FOR = {"ministack": "1.5.33", "hypercorn": "0.18.0"}
"""The release of each package whose private functions the corrections wrap; pyproject.toml pins the same."""
CORRECTIONS = (
    *(scale, payloads, histories, stopping, maps, map_runs),
    *(callbacks, states, functions, permissions, refusals, tags, walls),
)
"""Where two wrap the same function of ministack's, the first lies innermost."""


def main() -> None:
    """Serve until SIGTERM, and end with all workers. ministack reads its settings from the environment."""
    for package, release in WRITTEN_FOR.items():
        if (found := version(package)) != release:
            raise SystemExit(
                f"{package} {found} is installed, but the embedded engine's corrections are written for "
                f"{release}: install {package}=={release}, or bring helpers/engines/embedded_server/ "
                "and its tests up to the new release"
            )
    # Three pipes a Lambda worker and a socket a request soon pass the usual soft limit of 1,024.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    from ministack import app
    from ministack.core import lambda_runtime

    for corrections in CORRECTIONS:
        corrections.correct()
    sys.argv = ["ministack"]
    app.main()
    lambda_runtime.reset()
    os._exit(0)  # threads that wait for callbacks would hold it up


if __name__ == "__main__":
    main()
