"""LocalStack in host mode: the open release, without Docker, on loopback only.

`helpers.engines.localstack` starts this folder as a program of LocalStack's own Python environment, which has
none of the lab. LocalStack is left as it is but for five things: its gateway listens on loopback alone; it
serves only callers with the engine's credentials (see walls.py); its buckets lie in its own folder; its
Lambda functions run in processes of this machine (see processes.py); and see corrections.py.
"""

import os
from functools import partial

import corrections  # noqa: F401 - corrects as it is run, as an init script does
import processes
import walls
from localstack.runtime.main import main
from localstack.services.s3 import provider
from twisted.internet import endpoints

HOST = "127.0.0.1"

if __name__ == "__main__":
    # LocalStack reads the port of GATEWAY_LISTEN and drops its host: TCP4ServerEndpoint without an interface
    # listens on all of them.
    endpoints.TCP4ServerEndpoint = partial(endpoints.TCP4ServerEndpoint, interface=HOST)
    provider.DEFAULT_S3_TMP_DIR = os.path.join(os.environ["TMPDIR"], "buckets")  # its own is fixed in /tmp
    walls.correct()
    processes.register()
    main()
