"""helpers.live_figure: a run's figure is redrawn in one place, ends as the trace, does the run no harm."""

# ruff: noqa: SIM300 -- asserts read expected == actual

import base64
import hashlib
import textwrap
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest

from helpers import Experiment, LiveFigure, checks, connect, live, live_figure, metrics, plots, stack
from helpers.notebooks import execute

SMALL = Experiment(
    12, 6, 0.5, 2, direct_seconds=0.01, limited_seconds=0.05, consumer="fleet", cold_start=True, seed=2
)


class Kept(LiveFigure):
    """One that keeps what it has drawn: (words, figure) of each picture."""

    def __init__(self):
        super().__init__()
        self.drawn = []

    def _figure(self, state, trace):
        figure, told = super()._figure(state, trace)
        self.drawn.append((told, figure))
        return figure, told


def curves(figure) -> dict[str, tuple[list, list]]:
    """The curves by their labels, and the limits by the words at them."""
    found = {}
    for ax in figure.axes:
        limit = plots.LIMIT["linewidth"]
        own = [line for line in ax.get_lines() if line.get_linewidth() != limit]
        found |= {line.get_label(): tuple(map(list, line.get_data())) for line in own}
        limits = [line.get_ydata()[0] for line in ax.get_lines() if line.get_linewidth() == limit]
        found |= {text.get_text(): limits for text in ax.texts}
    return found


def test_the_last_picture_is_the_traces():
    """Workers, children, messages waiting and items back as the trace has them, below their limits."""
    shown = Kept()
    experiment = Experiment(200, 20, 0.4, 5, limited_seconds=0.2)
    trace = connect("simulated").run(experiment, progress=shown)
    [(told, figure)] = shown.drawn
    drawn = curves(figure)
    for label, (time, count) in {
        "workers": metrics.concurrency(trace, "limited"),
        "children": metrics.concurrency(trace),
        "messages waiting": metrics.backlog(trace),
    }.items():
        assert (time.tolist(), count.tolist()) == drawn[label]
    time, count = drawn["items back"]
    assert [0.0, *sorted(trace.items["returned"])] == time
    assert list(range(201)) == count
    assert [[5], [20], [200]] == [drawn[name] for name in ("worker limit 5", "map limit 20", "all items 200")]
    assert f"ended after {trace.items['returned'].max():.1f} s: 200 of 200 items are back" == told
    assert shown.png.startswith(b"\x89PNG")


def test_while_it_runs_it_is_what_was_sampled():
    """Until there is a trace, the curves are the samples of the queue and the counts of the Map Run; a limit
    far above them is told, not drawn."""
    shown = Kept()
    samples, counts = [], []
    experiment = Experiment(9, 1000, 1.0, 4, batch_size=5)
    with shown.following(experiment, samples, counts) as figure:
        figure.look()
        began = figure._since
        samples += [{"time": began + t, "visible": 9 - t, "in_flight": t} for t in range(3)]
        told = {"pending": 3, "running": 4, "succeeded": 1, "failed": 1, "timedOut": 1, "aborted": 1}
        counts.append(told | {"time": began + 2})
        figure._next = 0.0
        figure.look()
    (first, _), (second, last) = shown.drawn
    assert "0 of 9 items are back" in first
    assert "4 of 9 items are back" in second
    drawn = curves(last)
    assert ([0, 1, 2], [0, 1, 2]) == drawn["messages in flight"]
    assert ([0, 1, 2], [9, 8, 7]) == drawn["messages waiting"]
    assert ([2], [4]) == drawn["children"]
    assert ([2], [4]) == drawn["items back"]
    assert [] == drawn["map limit 1,000, far above"] == drawn["5 messages for each worker 20, far above"]


def test_a_run_is_the_same_with_it(engine):
    """On an engine: all laws hold on the trace, nothing is in it that a run without a figure does not have,
    and each sample of the queue is in the last picture."""
    shown = Kept()
    trace = engine.run(SMALL, progress=shown)
    checks.verify(trace)
    assert trace.metrics.empty
    assert len(shown.drawn) >= 2
    told, figure = shown.drawn[-1]
    assert "12 of 12 items are back" in told
    [dots] = [line for line in figure.axes[0].get_lines() if line.get_label() == "as sampled"]
    assert trace.samples["in_flight"].tolist() == list(dots.get_ydata())
    assert trace.samples["time"].clip(lower=0).to_numpy() == pytest.approx(
        np.array(dots.get_xdata()), abs=1e-3
    )


def test_an_error_in_drawing_does_no_harm(engine, capsys):
    """It is told once, and the run's trace is as it would be."""

    class Broken(LiveFigure):
        def _figure(self, state, trace):
            raise ZeroDivisionError("a bad figure")

    checks.verify(engine.run(SMALL, progress=Broken()))
    told = [line for line in capsys.readouterr().err.splitlines() if "bad figure" in line]
    assert ["the figure is not redrawn any more: ZeroDivisionError: a bad figure"] == told


def test_a_burst_has_one_too(engine):
    """Without a Map there are no children, nor a limit of theirs; the items come back all the same."""
    shown = Kept()
    burst = Experiment(8, 0, 1.0, 2, limited_seconds=0.05, consumer="fleet", cold_start=True)
    with stack.deploy(engine, "sqs_limited", stack.parameters(burst, "sqs_limited")) as deployed:
        trace = live.burst(deployed, burst, progress=shown)
    checks.verify(trace)
    told, figure = shown.drawn[-1]
    assert "8 of 8 items are back" in told
    drawn = curves(figure)
    assert [*range(9)] == drawn["items back"][1]
    assert {"workers", "messages waiting", "items back", "worker limit 2", "all items 8"} == {
        name for name in drawn if "sampled" not in name
    }


def test_what_has_left_a_burst_s_queue_is_back():
    """While it runs: all but the deepest that the queue is from then on, however long the sending takes."""
    shown = Kept()
    samples = []
    with shown.following(Experiment(10, siphon_share=1.0), samples, None) as figure:
        depths = [(0, 0), (4, 1), (8, 2), (3, 2), (0, 1)]
        samples += [
            {"time": figure._since + t, "visible": visible, "in_flight": in_flight}
            for t, (visible, in_flight) in enumerate(depths)
        ]
        figure.look()
    [(told, drawn)] = shown.drawn
    assert [0, 0, 0, 5, 9] == curves(drawn)["items back"][1]
    assert "9 of 10 items are back" in told


def test_aws_is_asked_nothing_more(monkeypatch):
    """Where quotas hold, the calls of a run that is waited for are the same with a figure and without, and
    the figure gets the counts that the trace gets."""
    clock = [0.0]
    now = SimpleNamespace(
        monotonic=lambda: clock[0],
        time=lambda: clock[0],
        sleep=lambda seconds: clock.__setitem__(0, clock[0] + seconds),
    )
    monkeypatch.setattr(live, "time", now)

    def waited(look) -> tuple[list[str], list]:
        clock[0], asked, counts = 10.0, [], []

        class Client:
            def describe_execution(self, executionArn):
                asked.append("DescribeExecution")
                return {"status": "RUNNING" if clock[0] < 15 else "SUCCEEDED"}

            def list_map_runs(self, executionArn):
                asked.append("ListMapRuns")
                return {"mapRuns": [{"mapRunArn": "run"}]}

            def describe_map_run(self, mapRunArn):
                asked.append("DescribeMapRun")
                return {"itemCounts": {"succeeded": 1, "failed": 0}}

        engine = SimpleNamespace(paced=True, poll_seconds=0.25, client=lambda service: Client())
        live.wait(SimpleNamespace(engine=engine), "arn", 9, False, counts, look=look)
        return asked, counts

    looks = []
    asked, counts = waited(lambda: looks.append(clock[0]))
    assert waited(None) == (asked, counts)
    assert 5 == len(counts) == asked.count("DescribeMapRun")
    assert 20 == len(looks)


def test_a_run_that_fails_leaves_its_last_picture():
    """It says when the run stopped, and the error goes on."""
    shown = Kept()

    def interrupted() -> None:
        with shown.following(Experiment(3), [], []):
            shown.look()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert ["running for", "stopped after"] == [" ".join(told.split()[:2]) for told, _ in shown.drawn]


@pytest.mark.parametrize(("picture_seconds", "apart"), [(0.02, 1.0), (0.5, 5.0)])
def test_drawing_takes_a_tenth_of_a_core_at_most(monkeypatch, picture_seconds, apart):
    """Pictures are a second apart, and of one that takes long, ten times that."""
    clock = [100.0]
    now = SimpleNamespace(monotonic=lambda: clock[0], thread_time=lambda: clock[0], time=lambda: clock[0])
    monkeypatch.setattr(live_figure, "time", now)
    drawn = []

    class Slow(LiveFigure):
        def _draw(self, state, trace):
            drawn.append(clock[0])
            clock[0] += picture_seconds

    with Slow().following(Experiment(3), [], []) as figure:
        for _ in range(3000):
            figure.look()
            clock[0] += 0.01
    gaps = np.diff(drawn) - picture_seconds
    assert len(gaps) >= 4
    assert gaps == pytest.approx(apart, abs=0.02)


NOTEBOOK = """
import hashlib
from helpers import Experiment, LiveFigure, reading, simulate
from helpers.live_figure import plots
plots.plt.plot([1, 2]);
---
figure, samples, experiment = LiveFigure(), [], Experiment(30)
with figure.following(experiment, samples, []):
    for n in range(4):
        samples.append({"time": figure._since + n, "visible": n, "in_flight": n})
        figure._next = 0.0
        figure.look()
    figure.end(simulate(experiment))
first = hashlib.sha256(figure.png).hexdigest()
---
reading("pictures begun", len(samples), "pictures")
print(first)
---
with figure.following(experiment, samples, []):
    figure.look()
    raise RuntimeError("the run failed")
"""


def test_a_notebook_keeps_one_picture_of_a_run(tmp_path):
    """Executed as a whole, a cell has one image, the last; one whose run fails has its image and an error."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell("# one")])
    cells = ["items: int = 2  # items", *NOTEBOOK.split("---\n")]
    notebook.cells += [nbformat.v4.new_code_cell(textwrap.dedent(cell).strip()) for cell in cells]
    notebook.cells[1].metadata["tags"] = ["parameters"]
    nbformat.write(notebook, tmp_path / "one.ipynb")
    result = execute(tmp_path / "one.ipynb", tmp_path / "out", {}, progress=False)
    assert (False, "RuntimeError: the run failed") == (result.ok, result.error)
    cells = nbformat.read(result.path, as_version=4).cells
    plain, run, said, failed = [cell for cell in cells if cell.cell_type == "code"][-4:]
    assert 4 == result.readings["pictures begun"]["value"]
    assert ["image/png" in output.data for output in plain.outputs if "data" in output] == [True]
    assert ["display_data"] == [output.output_type for output in run.outputs], run.outputs
    [output] = run.outputs
    picture = base64.b64decode(output.data["image/png"])
    assert hashlib.sha256(picture).hexdigest() in "".join(o.get("text", "") for o in said.outputs)
    image, error = failed.outputs
    assert "image/png" in image.data
    assert "the run failed" == error.evalue
