"""LocalStack in host mode: the open release, without Docker, on loopback only.

`helpers.engines.localstack` starts this folder as a program of LocalStack's own Python environment, which has
none of the lab. LocalStack is left as it is but for three things: its gateway listens on loopback alone, its
Lambda functions run in processes of this machine (see processes.py), and no early answer is lost.
"""

from functools import partial, wraps
from typing import Any

import processes
from localstack.runtime.main import main
from localstack.services.stepfunctions.asl.eval.callback.callback import CallbackEndpoint
from twisted.internet import endpoints

HOST = "127.0.0.1"


def hear_early_answers() -> None:
    """Let a task with a heartbeat hear an answer that came before it began to listen.

    It begins once the message is sent, and then waits for a sign of life before it looks for an answer: one
    that a quick worker has given by then would be heard after the heartbeat's timeout, as too late.
    """
    set_up = CallbackEndpoint.setup_heartbeat_endpoint

    @wraps(set_up)
    def listening(self: Any, heartbeat_seconds: int) -> Any:
        endpoint = set_up(self, heartbeat_seconds)
        if self.get_outcome():
            endpoint.notify()
        return endpoint

    CallbackEndpoint.setup_heartbeat_endpoint = listening


if __name__ == "__main__":
    # LocalStack reads the port of GATEWAY_LISTEN and drops its host: TCP4ServerEndpoint without an interface
    # listens on all of them.
    endpoints.TCP4ServerEndpoint = partial(endpoints.TCP4ServerEndpoint, interface=HOST)
    processes.register()
    hear_early_answers()
    main()
