"""One Lambda execution environment: imports the handler, then answers events until its channel closes.

Started by processes.py in the function's code folder. The first argument is the descriptor of a socket, on
which an event comes as one line of JSON, and each answer goes back as one. What the handler and its child
processes print goes to the log, and their standard input is empty.
"""

import importlib
import json
import os
import socket
import sys
import time
import traceback
from functools import partial
from types import SimpleNamespace
from typing import Any


def error(raised: Exception) -> dict[str, Any]:
    """An exception as Lambda reports it."""
    return {
        "errorMessage": str(raised),
        "errorType": type(raised).__name__,
        "stackTrace": traceback.format_exception(raised),
    }


def milliseconds_until(moment: float) -> int:
    """How far a moment of the monotonic clock is."""
    return int(1000 * (moment - time.monotonic()))


def main() -> None:
    """Answer until the other side is gone."""
    number = int(sys.argv.pop(1))
    os.set_inheritable(number, False)
    nothing = os.open(os.devnull, os.O_RDWR)
    # A process that the handler forks without a program of its own could answer in this one's place.
    os.register_at_fork(after_in_child=lambda: os.dup2(nothing, number, inheritable=False))
    channel = socket.socket(fileno=number).makefile("rw")
    log = os.fdopen(os.dup(2), "w")  # though the handler closes its own
    worker = os.getpid()

    def tell(answer: dict[str, Any]) -> None:
        if os.getpid() != worker:  # forked in the handler, by native code perhaps, without Python's hooks
            os._exit(0)
        channel.write(json.dumps(answer) + "\n")
        channel.flush()

    sys.path.insert(0, os.getcwd())
    module, _, name = os.environ["_HANDLER"].rpartition(".")
    try:
        handler = getattr(importlib.import_module(module.replace("/", ".")), name)
    except Exception as raised:
        tell({"error": error(raised)})
        return
    tell({})
    seconds = float(os.environ["AWS_LAMBDA_FUNCTION_TIMEOUT"])
    for line in iter(channel.readline, ""):
        call = json.loads(line)
        context = SimpleNamespace(
            aws_request_id=call["invoke-id"],
            function_name=os.environ["AWS_LAMBDA_FUNCTION_NAME"],
            function_version=os.environ["AWS_LAMBDA_FUNCTION_VERSION"],
            get_remaining_time_in_millis=partial(milliseconds_until, time.monotonic() + seconds),
            invoked_function_arn=call["invoked-function-arn"],
            log_group_name=os.environ["AWS_LAMBDA_LOG_GROUP_NAME"],
            log_stream_name=os.environ["AWS_LAMBDA_LOG_STREAM_NAME"],
            memory_limit_in_mb=os.environ["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"],
        )
        try:
            tell({"result": json.dumps(handler(json.loads(call["payload"]), context))})
        except Exception as raised:
            traceback.print_exc(file=log)
            log.flush()
            tell({"error": error(raised)})


if __name__ == "__main__":
    main()
