"""A Lambda worker's answers are its own: whatever its code prints, reads, closes or forks, goes elsewhere."""

import errno
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from test_embedded_functions import function, functions, log_lines

from helpers import live
from helpers.drills import until
from helpers.errors import StackError

FORGED = '{"status": "ok", "result": "forged"}'
"""A line as ministack's workers answer with."""
PRINTS = {
    "print": "print(FORGED)",
    "standard_error": "print(FORGED, file=sys.stderr)",
    "original_stdout": "sys.__stdout__.write(FORGED + '\\n')",
    "descriptor": "os.write(1, FORGED.encode() + b'\\n')",
    "child": "subprocess.run(['echo', FORGED])",
    "shell": "os.system(f\"echo '{FORGED}'\")",
    "c_code": "ctypes.CDLL(None).puts(FORGED.encode()); ctypes.CDLL(None).fflush(None)",
    "no_line_break": "subprocess.run(['printf', '%s', FORGED])",
    "lines": "print(*[FORGED] * 300, sep='\\n')",
    "binary": "os.write(1, bytes(range(256)) + b'\\n' + FORGED.encode())",
    "megabytes": "print('x' * 3_000_000); print(FORGED)",
    "forked_child": (
        "pid = os.fork()\n    if not pid:\n        return 'forged'\n    os.waitpid(pid, 0); print(FORGED)"
    ),
    "natively_forked_child": (
        "pid = ctypes.PyDLL(None).fork()\n    if not pid:\n        return 'forged'\n"
        "    os.waitpid(pid, 0); print(FORGED)"
    ),
    "natively_forked_child_that_fails": (
        "pid = ctypes.PyDLL(None).fork()\n    if not pid:\n        raise KeyError('forged')\n"
        "    os.waitpid(pid, 0); print(FORGED)"
    ),
    "child_that_stays": "subprocess.Popen(['sh', '-c', f\"echo '{FORGED}'; sleep 9\"]); time.sleep(0.3)",
}
BREAKS = {
    "reads_input": "assert sys.stdin.read() == ''",
    "child_reads_input": "assert subprocess.run(['cat'], stdout=subprocess.PIPE).stdout == b''",
    "closes_streams": "sys.stdin.close(); sys.stdout.close(); sys.stderr.close()",
    "closes_descriptors": "[os.close(n) for n in (0, 1, 2) if os.path.exists(f'/dev/fd/{n}')]",
    "redirects": "sys.stdout = sys.stderr = open(os.devnull, 'w'); sys.stdin = None",
    "redirects_descriptors": "[os.dup2(os.open(os.devnull, os.O_RDWR), n) for n in range(3)]",
}
HEAD = f"import ctypes, os, subprocess, sys, time\nFORGED = {FORGED!r}\n"


def handler(line: str) -> str:
    """A handler that runs this line and returns what it was called with."""
    return f"{HEAD}def handler(event, context):\n    {line}\n    return {{'answer_to': event}}\n"


def called(engine, name: str, event: object) -> object:
    answer = engine.client("lambda").invoke(FunctionName=name, Payload=json.dumps(event))
    return json.load(answer["Payload"])


@pytest.mark.parametrize("line", PRINTS.values(), ids=PRINTS)
def test_what_is_printed_is_logged_and_never_an_answer(engine, line):
    """Each call has the answer to its own event; what the handler or a child of it prints is in the log."""
    name = function(engine, handler(line), Timeout=30)
    assert [called(engine, name, n) for n in range(3)] == [{"answer_to": n} for n in range(3)]
    logged = "\n".join(log_lines(engine, name))
    assert logged.count(FORGED) == 3 * (300 if "300" in line else 1)


@pytest.mark.parametrize("line", BREAKS.values(), ids=BREAKS)
def test_a_handler_may_do_what_it_likes_with_its_streams(engine, line):
    """Reading standard input gives its end and eats no event; closing or redirecting breaks nothing."""
    name = function(engine, handler(line), Timeout=30)
    assert called(engine, name, 0) == {"answer_to": 0}
    assert called(engine, function(engine, handler("pass")), 1) == {"answer_to": 1}


def test_a_worker_that_closed_its_streams_answers_the_next_event(engine):
    """The same environment goes on, whose handler closed all three streams once."""
    code = handler("'gone' in globals() or globals().update(gone=os.closerange(0, 3))")
    name = function(engine, code.replace("event}", "[event, os.getpid()]}"))
    first, second = (called(engine, name, n)["answer_to"] for n in range(2))
    assert [first[0], second[0]] == [0, 1]
    assert first[1] == second[1]


def test_a_log_has_its_order(engine):
    """Standard output and error, of the handler and of its children, are logged in the order of writing."""
    lines = [
        "print('1 out')",
        "print('2 error', file=sys.stderr)",
        "os.write(1, b'3 descriptor\\n')",
        "print('4 no', end=' ')",
        "subprocess.run(['echo', 'line break'])",
        "subprocess.run('echo 5 child error >&2', shell=True)",
        "print('6 end', end='')",
    ]
    code = f"{HEAD}print('0 import')\ndef handler(event, context):\n    " + "\n    ".join(lines)
    name = function(engine, code)
    called(engine, name, {})
    start, *logged, end, _report = log_lines(engine, name)
    assert (start.split()[0], end.split()[0]) == ("START", "END")
    assert logged == [
        "0 import",
        "1 out",
        "2 error",
        "3 descriptor",
        "4 no line break",
        "5 child error",
        "6 end",
    ]


def test_a_child_inherits_no_channel_of_its_worker(engine):
    """A program that the handler starts has no open file beyond the three standard ones."""
    line = "return os.popen('ls /proc/self/fd').read().split()"
    # 3 is the folder that `ls` reads.
    assert called(engine, function(engine, handler(line)), 0) == ["0", "1", "2", "3"]
    keeps = "subprocess.check_output(['ls', '/proc/self/fd'], close_fds=False)"
    inherited = f"return {keeps}.decode().split()"
    assert called(engine, function(engine, handler(inherited)), 0) == ["0", "1", "2", "3"]


@pytest.mark.parametrize("line", [*PRINTS.values()][:7], ids=[*PRINTS][:7])
def test_what_is_printed_at_import_is_logged(engine, line):
    """A module that prints while it is imported starts, and is logged with the first invocation."""
    name = function(engine, f"{HEAD}{line}\ndef handler(event, context):\n    return event\n")
    assert [called(engine, name, n) for n in range(2)] == [0, 1]
    assert log_lines(engine, name)[1] == FORGED


def test_what_was_printed_before_a_failed_import_or_a_timeout_is_logged(engine):
    """The log has what led to the failure, and the failure."""
    failing = function(engine, f"{HEAD}print('before')\nraise KeyError('at import')\n")
    assert called(engine, failing, 0)["errorMessage"] == "Worker init failed: 'at import'"
    assert log_lines(engine, failing)[1:3] == ["before", "RuntimeError: Worker init failed: 'at import'"]
    slow = function(engine, handler("subprocess.run(['echo', 'before']); time.sleep(60)"), Timeout=1)
    assert called(engine, slow, 0)["errorMessage"] == "Task timed out after 1.00 seconds"
    assert log_lines(engine, slow)[1] == "before"


@pytest.mark.skipif(not shutil.which("node"), reason="Node.js is not installed")
@pytest.mark.parametrize(
    "line",
    [
        "console.log(FORGED)",
        "fs.writeSync(1, FORGED + '\\n')",
        "child.spawnSync('echo', [FORGED], { stdio: 'inherit' })",
        "child.execSync('cat', { stdio: 'inherit' }); console.log(FORGED)",
        "fs.readFileSync(0); console.log(FORGED)",
    ],
)
def test_a_node_worker_has_channels_of_its_own(engine, line):
    """What holds for Python holds for Node.js: printed lines are logged, and input is at its end."""
    code = (
        "const fs = require('fs'); const child = require('child_process');\n"
        f"const FORGED = '{FORGED}'; console.log('import');\n"
        f"exports.handler = async (event) => {{ {line}; return {{ answer_to: event }}; }};\n"
    )
    name = function(engine, code, Runtime="nodejs22.x", file="index.js")
    assert [called(engine, name, n) for n in range(3)] == [{"answer_to": n} for n in range(3)]
    assert [text for text in log_lines(engine, name) if text in ("import", FORGED)] == ["import"] + [
        FORGED
    ] * 3


@pytest.mark.skipif(not shutil.which("node"), reason="Node.js is not installed")
@pytest.mark.parametrize(
    "body",
    [
        "callback(null, event); throw new Error('late');",
        "callback(null, event); callback(null, 'second');",
        "return { then(done) { done(event); throw new Error('late'); } };",
    ],
)
def test_a_node_worker_answers_a_call_once(engine, body):
    """Each call has the first answer to its own event; a second one does not answer the next call."""
    code = f"exports.handler = (event, context, callback) => {{ {body} }};"
    name = function(engine, code, Runtime="nodejs22.x", file="index.js")
    assert [called(engine, name, n) for n in range(3)] == [0, 1, 2]


@pytest.mark.skipif(not shutil.which("node"), reason="Node.js is not installed")
def test_a_child_inherits_no_channel_of_its_node_worker(engine):
    """A program that a Node.js handler starts has no open file beyond the three standard ones."""
    code = (
        "const list = () => require('child_process').execFileSync('ls', ['/proc/self/fd']).toString();\n"
        "exports.handler = async () => list().split(/\\s+/).filter(String);\n"
    )
    name = function(engine, code, Runtime="nodejs22.x", file="index.js")
    assert called(engine, name, 0) == ["0", "1", "2", "3"]


def test_a_broken_pipe_of_the_handler_is_an_error_of_the_handler(engine):
    """An exception whose text is that of a dead worker keeps its class and its text."""
    name = function(engine, handler("raise BrokenPipeError(32, 'Broken pipe')"))
    answer = called(engine, name, 0)
    assert (answer["errorType"], answer["errorMessage"]) == ("BrokenPipeError", "[Errno 32] Broken pipe")


@pytest.mark.parametrize(
    ("end", "told"),
    [("os._exit(3)", "exit status 3"), ("sys.exit(4)", "exit status 4"), ("os.abort()", "signal: Aborted")],
)
@pytest.mark.parametrize("where", ["import", "call"])
def test_a_worker_that_ends_says_how(engine, end, told, where):
    """The error of an environment that ended is Lambda's, with its exit status or signal, and its log."""
    at_import = f"{HEAD}print('last words')\n{end}\n"
    code = at_import if where == "import" else handler(f"print('last words'); {end}")
    name = function(engine, code)
    answer = called(engine, name, 0)
    assert answer["errorType"] == "Runtime.ExitError"
    assert answer["errorMessage"].endswith(f" Error: Runtime exited with error: {told}")
    assert log_lines(engine, name)[1] == "last words"


def test_a_killed_worker_tells_of_memory(engine):
    """SIGKILL is what the system ends a process with that took too much memory; the error says so."""
    name = function(engine, handler("os.kill(os.getpid(), 9)"))
    assert (
        "signal: killed, as the system does when it is out of memory"
        in called(engine, name, 0)["errorMessage"]
    )


def test_a_worker_that_does_not_start_ends_no_other(engine, tmp_path):
    """Only its own invocation fails: those that run at the same time go on."""
    gate, begun = tmp_path / "gate", tmp_path / "begun"
    code = (
        f"import os, pathlib, time\ngate, begun = pathlib.Path({str(gate)!r}), pathlib.Path({str(begun)!r})\n"
        "if begun.exists():\n    os._exit(3)\n"
        "def handler(event, context):\n    begun.touch()\n"
        "    while not gate.exists():\n        time.sleep(0.02)\n    return event\n"
    )
    name = function(engine, code, Timeout=60)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(called, engine, name, "first")
        until(begun.exists, "the first handler")
        assert called(engine, name, "second")["errorType"] == "Runtime.ExitError"
        gate.touch()
        assert first.result() == "first"


DIES = """
import os, pathlib, time
def died():
    for n in range({deaths}):
        try:
            os.mkdir(os.path.join({folder!r}, str(n)))
            return True
        except FileExistsError:
            pass
if {at_import} and died():
    os._exit(3)
def handler(event, context):
    time.sleep(event["warm_seconds"])
    if not {at_import} and died():
        os.kill(os.getpid(), 9)
    return {{"worker": context.log_stream_name}}
"""
"""A worker's handler whose first `deaths` environments, or calls, die."""


def deployed(engine, folder, deaths: int, at_import: bool = True) -> SimpleNamespace:
    """A stack of one function whose workers die, as `live.warm` sees it."""
    code = DIES.format(deaths=deaths, folder=str(folder), at_import=at_import)
    outputs, parameters = {"WorkerFunction": function(engine, code, Timeout=20)}, {"FunctionTimeout": 20}
    return SimpleNamespace(engine=engine, outputs=outputs, parameters=parameters, warmed={})


@pytest.mark.parametrize("at_import", [True, False])
def test_a_worker_that_dies_while_warming_up_is_tried_again(engine, tmp_path, at_import):
    """Deaths of workers cost another round, and not the run."""
    stack = deployed(engine, tmp_path, 3, at_import)
    assert live.warm(stack, "WorkerFunction", 4, progress=False) == 4
    assert len([*tmp_path.iterdir()]) == 3


def test_a_function_that_can_never_be_warmed_says_why(engine, tmp_path, monkeypatch):
    """After the last round the error has the reason of a worker that died."""
    monkeypatch.setattr(live, "WARM_TRIES", 2)
    with pytest.raises(StackError, match=r"2 of 2 calls .* Runtime exited with error: exit status 3"):
        live.warm(deployed(engine, tmp_path, 99), "WorkerFunction", 2, progress=False)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.EMFILE, "too many"), "could not be started (Too many open files); raise the limit"),
        (OSError(errno.ENOMEM, "memory"), "could not be started (Cannot allocate memory); free memory"),
        (OSError(errno.ENOSPC, "full"), "could not be started (No space left on device); make room"),
        (EOFError(), "(Resource temporarily unavailable); raise the limit of processes"),
        (RuntimeError("can't start new thread"), "raise the limit of processes"),
    ],
)
def test_what_the_system_refuses_is_said_with_its_remedy(error, told):
    """A worker for which there is no descriptor, memory, process or room says which, and what to do."""

    class Worker:
        def _spawn(self):
            raise error

        def invoke(self, event, request_id):
            self._spawn()

    functions.ends_with_a_reason(Worker)
    answer = Worker().invoke({}, "id")
    assert answer["status"] == "error"
    assert told in answer["error"]
