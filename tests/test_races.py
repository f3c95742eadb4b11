"""What one thread fills and another reads is read as of one moment.

Where the other thread would come in between, these tests come in between themselves: a record that is read
appends another one, a clock that is asked lets another thread go first.
"""

import json
import sys
import threading
from types import SimpleNamespace
from unittest.mock import Mock

import nbformat
import pytest
from botocore.exceptions import EndpointConnectionError

from helpers import live, notebooks
from helpers.engines import local
from helpers.engines.base import Engine
from helpers.experiment import Experiment
from helpers.fleet import Fleet
from helpers.fleet_worker import WholeLines
from helpers.live_figure import LiveFigure
from helpers.recorder import Recorder
from helpers.stack import Stack
from helpers.wire import Wire

BLOCKED_SECONDS = 0.2
"""How long another thread may take that is expected to be blocked; only a broken lock makes use of it."""
MOST = 100
"""Records that are appended at most, so that an endless loop ends."""
EXPERIMENT = Experiment(1, siphon_share=1, worker_concurrency=2)


class Sample(dict):
    """A record that appends another one to its container whenever it is read."""

    def __init__(self, container, **fields):
        super().__init__(fields)
        self.container = container

    def __iter__(self):  # so that dict() asks for the keys
        return iter(self.keys())

    def keys(self):
        if len(self.container) < MOST:
            self.container.append(Sample(self.container, **dict(self.items())))
        return super().keys()


def growing(kind, **fields):
    """A container of this kind with three records, each of which appends another one when it is read."""
    container = kind()
    for _ in range(3):
        container.append(Sample(container, **fields))
    return container


def meanwhile(act) -> threading.Thread:
    """Do this in another thread, which is done or seems blocked when this returns it."""
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    thread.join(BLOCKED_SECONDS)
    return thread


class Somewhere(local.Local):
    """A local engine that nobody serves."""

    name, health = "embedded", "/"

    def _find(self, *given):
        return "http://127.0.0.1:9"


def a_stack(client=None) -> Stack:
    """A stack with a queue, on an engine that has this client only."""
    engine = Mock(clock_seconds=0.002, poll_seconds=0.0, log_seconds=0.0)
    engine.name, engine.client.return_value = "embedded", client
    engine.versions.return_value, engine.fleet_environment.return_value = {}, {}
    return Stack(engine, "sqs_limited", "lab-none", {}, {"QueueUrl": "http://127.0.0.1:9/queue"})


@pytest.fixture
def often(monkeypatch):
    """Threads take turns as often as Python lets them."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_a_snapshot_is_of_one_moment():
    """What is appended to a recorder while somebody reads it, is read the next time."""
    recorder = Recorder()
    recorder.append(1)
    reading, kept = iter(recorder), recorder.snapshot()
    recorder.append(2)
    assert (list(reading), kept, list(recorder), len(recorder)) == ([1], [1], [1, 2], 2)


@pytest.mark.parametrize("kind", [list, Recorder])
def test_a_trace_has_the_samples_of_one_moment(kind):
    """A run's trace is made while the queue is still sampled: with the samples until then."""
    samples = growing(kind, time=1.0, visible=0, in_flight=0)
    trace = live._as_trace(a_stack(), EXPERIMENT, 0.0, [], [], samples)
    assert 3 == len(trace.samples) < len(samples)


def test_a_sampled_queue_can_be_read_at_any_moment(often, monkeypatch):
    """Traces are made of a queue's samples as fast as they come, and each has as many or more of them."""
    monkeypatch.setattr(live, "SAMPLE_SECONDS", 0.0)
    attributes = {"ApproximateNumberOfMessages": "1", "ApproximateNumberOfMessagesNotVisible": "0"}
    sqs = Mock()
    sqs.get_queue_attributes.return_value = {"Attributes": attributes}
    counts = [0]
    with live.sampled_queue(stack := a_stack(sqs)) as samples:
        while counts[-1] < 300:
            counts.append(len(live._as_trace(stack, EXPERIMENT, 0.0, [], [], samples).samples))
    assert sorted(counts) == counts


@pytest.mark.parametrize("kind", [list, Recorder])
def test_a_live_figure_shows_the_samples_of_one_moment(kind):
    """A figure is drawn while samples and counts come in."""
    samples = growing(kind, time=1.0, visible=0, in_flight=0)
    counts = growing(kind, time=1.0, running=1, succeeded=0, failed=0, timedOut=0, aborted=0)
    live_figure = LiveFigure()
    with live_figure.following(EXPERIMENT, samples, counts):
        figure, _ = live_figure._figure("running for", None)
    drawn = {line.get_label(): len(line.get_xdata()) for ax in figure.axes for line in ax.get_lines()}
    assert (drawn["messages waiting"], drawn["children"]) == (3, 3)


def test_what_a_fleet_has_said_is_read_as_of_one_moment():
    """Lines that come while they are parsed are parsed the next time."""
    fleet = Fleet(a_stack(), workers=1, batch_size=1)

    class Line(str):
        def find(self, *part):
            if len(fleet.lines) < MOST:
                fleet.lines.append(Line(self))
            return super().find(*part)

    started = {"attempt_started": {"item": 0, "attempt": 1, "worker": "fleet-0", "start": 1.0}}
    fleet.lines.append(Line(json.dumps(started)))
    assert len(live.parse_log(fleet.lines)) == 1
    assert 1 < len(fleet.lines) < MOST


def test_threads_share_one_client():
    """A client that one thread makes is the one that all threads get."""
    made = []

    class Making(Engine):
        paced = False

        def _new_client(self, service):
            made.append(service)
            if len(made) == 1:
                meanwhile(lambda: self.client(service))
            return object()

    engine = Making()
    assert engine.client("sqs") is engine.client("sqs")
    assert made == ["sqs"]


def test_a_refusal_and_an_answer_at_once_are_no_error(monkeypatch):
    """While one thread's call is refused, another's is answered: the engine is there for both."""
    engine = Somewhere()
    refused = EndpointConnectionError(endpoint_url=engine.endpoint_url, error=ConnectionRefusedError())
    answered = []

    def clock() -> float:
        answered.append(meanwhile(engine._is_there))
        return 1e6

    monkeypatch.setattr(local, "time", SimpleNamespace(monotonic=clock))
    engine._is_there(refused)
    for thread in answered:
        thread.join()
    monkeypatch.setattr(local, "time", SimpleNamespace(monotonic=iter([1.0, 1.0, 1e6]).__next__))
    engine._is_there(refused)
    with pytest.raises(local.EngineGone):
        engine._is_there(refused)


def test_faults_can_be_read_while_they_strike():
    """The faults so far are those of one moment, though the proxy's thread appends to them."""
    wire = Wire(Somewhere())
    wire._loop.close()

    class Fired(SimpleNamespace):
        @property
        def ts(self) -> float:
            wire._proxy.fired.append(Fired(service="sqs", operation="SendMessage", action="reset"))
            return 1.0

    wire._proxy.fired.append(Fired(service="sqs", operation="SendMessage", action="reset"))
    assert (len(wire.fired()), len(wire._proxy.fired)) == (1, 2)


def test_threads_write_whole_lines_one_after_another():
    """A worker's line is written and flushed before another worker's line is written."""
    told = []

    class Output:
        def write(self, text):
            told.append(text)
            if text == "a\n":
                meanwhile(lambda: lines.write("b\n"))

        def flush(self):
            told.append("flushed")

    lines = WholeLines(Output())
    lines.write("a\n")
    lines.write("c\n")
    assert told[:2] == ["a\n", "flushed"]


def test_a_failure_that_a_thread_still_writes_is_read_when_it_is_whole(tmp_path):
    """The exceptions of a kernel's threads are read while another one is written."""
    log, cells = tmp_path / "k.threads", [nbformat.v4.new_code_cell("1"), nbformat.v4.new_code_cell("2")]
    lines = [json.dumps([number, "ValueError", "bad", []]) + "\n" for number in (1, 2)]
    for written, marked in ((lines[0] + lines[1][:20], [1, 0]), ("".join(lines), [1, 1])):
        log.write_text(written)
        for cell in cells:
            cell.outputs = []
        notebooks._mark_threads(log, cells)
        assert marked == [len(cell.outputs) for cell in cells]
