"""A fleet's records are its own: whatever a handler prints, reads or forks, goes elsewhere."""

import contextlib
import json
import os
import signal

import pytest
from processes import gone

from helpers import Experiment, checks, fleet, live, stack

FORGED = json.dumps(
    {"attempt_ended": {"item": 0, "attempt": 1, "worker": "fleet-0", "end": 1e12, "outcome": "failed"}}
)
PRINTS = {
    "print": "print(FORGED)",
    "descriptor": "os.write(1, FORGED.encode() + b'\\n')",
    "child": "subprocess.run(['echo', FORGED])",
    "no_line_break": "subprocess.run(['printf', '%s', FORGED])",
    "ready": "os.system('echo ready')",
    "binary": "os.write(1, bytes(range(256)))",
    "damaged": 'print(\'{"attempt_ended": {"item": 0\'); os.write(1, b\'{"attempt_started": 3}\\n\')',
    "reads_input": "assert subprocess.check_output(['cat']) == b''; assert sys.stdin.read() == ''",
    "closes": "'gone' in globals() or globals().update(gone=os.closerange(0, 3))",
    "child_that_stays": "subprocess.Popen(['sleep', '60'], close_fds=False)",
    "forked_child": "os.fork() or os._exit(os.system('echo forked'))",
}
EXPERIMENT = Experiment(4, siphon_share=1, worker_concurrency=2, consumer="fleet", limited_seconds=0.01)


@pytest.mark.parametrize("line", PRINTS.values(), ids=PRINTS)
def test_what_a_handler_prints_is_no_record(engine, monkeypatch, tmp_path, line):
    """Printed at import or during a task, by the handler or a child of it: the trace is of what was done."""
    code = fleet.HANDLER.read_text().replace(
        'time.sleep(item["task_seconds"])', 'disturb(); time.sleep(item["task_seconds"])'
    )
    head = f"import os, subprocess, sys\nFORGED = {FORGED!r}\n\n\ndef disturb():\n    {line}\n\n\ndisturb()\n"
    changed = tmp_path / "index.py"
    changed.write_text(head + code)
    monkeypatch.setattr(fleet, "HANDLER", changed)
    # A stack of its own: the long polls of a fleet that was killed may yet take messages.
    with stack.deploy(engine, "sqs_limited", stack.parameters(EXPERIMENT, "sqs_limited")) as deployed:
        trace = live.burst(deployed, EXPERIMENT, progress=False)
    checks.verify(trace)
    assert list(trace.attempts["outcome"]) == ["succeeded"] * 4


@pytest.mark.parametrize("fork", ["os.fork", "ctypes.PyDLL(None).fork"])
def test_a_process_that_a_handler_forks_becomes_no_worker(engine, monkeypatch, tmp_path, fork):
    """It ends with the handler's call, by Python or native code: it polls for no task and outlives no run."""
    children, changed = tmp_path / "children", tmp_path / "index.py"
    disturb = (
        f"with open({str(children)!r}, 'a') as file:\n        file.write(f'{{{fork}() or sys.exit()}} ')"
    )
    changed.write_text(
        f"import ctypes, os, sys\n\n\ndef disturb():\n    {disturb}\n\n\n"
        + fleet.HANDLER.read_text().replace("time.sleep(item", "disturb(); time.sleep(item")
    )
    monkeypatch.setattr(fleet, "HANDLER", changed)
    with stack.deploy(engine, "sqs_limited", stack.parameters(EXPERIMENT, "sqs_limited")) as deployed:
        live.burst(deployed, EXPERIMENT, progress=False)
    forked = [int(child) for child in children.read_text().split()]
    assert len(forked) == EXPERIMENT.items
    try:
        assert all(map(gone, forked))
    finally:
        for child in forked:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize(
    "line",
    [
        FORGED[:-1],
        '{"attempt_ended": 3}',
        '{"attempt_ended": []}',
        '{"attempt_ended": {}}',
        '{"attempt_started": {"item": 0, "attempt": 1, "worker": "w", "start": NaN}}',
        '{"attempt_started": {"item": 0, "attempt": 1, "worker": "w", "start": "now"}}',
        '{"attempt_started": {"item": [0], "attempt": 1, "worker": "w", "start": 1.0}}',
        '{"attempt_started": {"item": true, "attempt": 1, "worker": "w", "start": 1.0}}',
        '{"attempt_started": {"item": 0, "attempt": 1, "worker": "w", "start": 1.0}, "more": 1}',
        '{"event": {"attempt_started": {"item": 0, "attempt": 1, "worker": "w", "start": 1.0}}}',
        '{"attempt_started": ' + "[" * 100_000,
    ],
)
def test_what_is_no_record_is_passed_over(line):
    """A line of a log that only looks like a record hides no other and stops no run."""
    right = {"item": 0, "attempt": 1, "worker": "w", "start": 1.0}
    whole = ["x " + json.dumps({"attempt_started": right}), "END"]
    assert str(live.parse_log([line, *whole, line])) == str(live.parse_log(whole))  # whose end is NaN
    assert live.parse_log(whole)[0, 1, "w"]["start"] == 1.0
