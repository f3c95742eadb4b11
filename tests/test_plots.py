"""Laws of the figures: they show exactly what metrics counts, with limits and units, and can be read."""

from dataclasses import replace

import matplotlib as mpl
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
from colours import luminance
from matplotlib.colors import to_hex, to_rgb
from matplotlib.text import Text
from nbclient import NotebookClient
from synthetic import make_trace

from helpers import metrics, plots, tune
from helpers.errors import TraceError
from helpers.experiment import Experiment, exponential, lognormal
from helpers.trace import Trace

mpl.use("Agg")

NAN = float("nan")
PLOTS = [plots.timeline, plots.workers, plots.backlog, plots.latency, plots.gantt]


@pytest.fixture(autouse=True)
def _close_figures():
    plt.close("all")
    yield
    plt.close("all")


def run(**settings) -> Trace:
    usual = {
        "map_concurrency": 30,
        "worker_concurrency": 20,
        "direct_seconds": exponential(0.2),
        "limited_seconds": lognormal(0.5, 0.6),
        "failure_rate": 0.1,
    }
    return make_trace(Experiment(**({"items": 200} | usual | settings)))


def line(ax, label):
    (found,) = [line for line in ax.lines if line.get_label() == label]
    return found


def same_steps(expected, drawn) -> None:
    np.testing.assert_array_equal(expected[0], drawn.get_xdata())
    np.testing.assert_array_equal(expected[1], drawn.get_ydata())
    assert drawn.get_drawstyle() == "steps-post"


def dashes(drawn) -> str:
    return str(drawn._unscaled_dash_pattern)  # get_linestyle calls every pattern of its own "--"


def limit_lines(ax):
    return [one for one in ax.lines if list(one.get_xdata()) == [0, 1]]


def limits_of(ax) -> dict[float, str]:
    """The value of each limit line, with its colour."""
    (pattern,) = {dashes(one) for one in limit_lines(ax)}
    assert pattern != "(0, None)"
    return {one.get_ydata()[0]: to_hex(one.get_color()) for one in limit_lines(ax)}


def bars(ax, hatched: bool, faint: bool) -> set[tuple[float, float, float]]:
    return {
        (round(bar.get_y() + bar.get_height() / 2), bar.get_x(), bar.get_width())
        for bar in ax.patches
        if bool(bar.get_hatch()) == hatched and (bar.get_alpha() is not None) == faint
    }


def test_timeline_shows_exactly_what_metrics_counts():
    """Children, direct invocations and limited workers, step by step."""
    trace = run()
    ax = plots.timeline(trace)
    same_steps(metrics.concurrency(trace), line(ax, "children"))
    same_steps(metrics.concurrency(trace, "direct"), line(ax, "direct invocations"))
    same_steps(metrics.concurrency(trace, "limited"), line(ax, "limited workers"))


def test_timeline_leaves_out_a_lane_without_items():
    """No line and no legend entry for what was not run."""
    ax = plots.timeline(run(siphon_share=1.0))
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    expected = ["children", "limited workers"]
    assert expected == labels


def test_gantt_names_only_lanes_that_have_items():
    """A lane without items has no legend entry."""
    labels = [text.get_text() for text in plots.gantt(run(siphon_share=1.0)).get_legend().get_texts()]
    assert "limited service" in labels
    assert "direct service" not in labels


def test_limits_are_dashed_black_lines_at_their_value_in_every_figure_that_has_one():
    """One colour for limits everywhere, used for nothing else, and each limit named with its value."""
    trace = run()
    timeline, workers = plots.timeline(trace), plots.workers(trace)
    expected = {30: "#000000", 20: "#000000"}
    assert expected == limits_of(timeline)
    expected = {20: "#000000"}
    assert expected == limits_of(workers)
    assert {"map limit 30", "worker limit 20"} == {text.get_text() for text in timeline.texts}
    assert {"worker limit 20"} == {text.get_text() for text in workers.texts}
    for ax in (timeline, workers, plots.backlog(trace), plots.latency(trace)):
        others = [one for one in ax.lines if list(one.get_xdata()) != [0, 1]]
        assert others
        assert all(to_hex(one.get_color()) != "#000000" for one in others)
        assert not {dashes(one) for one in others} & {dashes(line) for line in limit_lines(timeline)}


def test_the_name_of_a_limit_stands_at_its_line():
    """Text and line are at the same height, within the figure."""
    ax = plots.timeline(run())
    ax.figure.draw_without_rendering()
    for text in ax.texts:
        limit = float(text.get_text().split()[-1])
        box = text.get_window_extent()
        height = ax.transData.transform((0, limit))[1]
        assert 0 <= box.y0 - height < box.height
        assert ax.get_ylim()[1] > limit


def test_a_limit_far_above_does_not_flatten_the_figure():
    """AWS's 10,000 children over a run of 200 is named at the top instead of shown to scale."""
    trace = run(map_concurrency=0)
    ax = plots.timeline(trace)
    assert ax.get_ylim()[1] < 2 * metrics.summary(trace)["peak_map"]
    assert {"map limit 10,000, far above", "worker limit 20"} == {text.get_text() for text in ax.texts}
    assert 10_000 in limits_of(ax)


@pytest.mark.parametrize("map_concurrency", [20, 21])
def test_limits_near_each_other_can_be_read(map_concurrency):
    """Equal limits share a line and a name, and names of near ones do not overlap."""
    ax = plots.timeline(run(map_concurrency=map_concurrency))
    ax.figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in ax.texts]
    if map_concurrency == 20:
        expected = ["map limit and worker limit 20"]
        assert expected == [text.get_text() for text in ax.texts]
    else:
        assert len(boxes) == 2
        assert not boxes[0].overlaps(boxes[1])


@pytest.mark.parametrize("worker_concurrency", [150, 180, 200, 300])
def test_what_is_far_above_does_not_cover_a_limit(worker_concurrency):
    """The name of a limit in sight, wherever it is, can be read beside those of limits that are not."""
    trace = run(map_concurrency=0, worker_concurrency=worker_concurrency)
    ax = plots.timeline(trace, plt.figure(figsize=(9, 3.4)).subplots())
    ax.figure.draw_without_rendering()
    known, far = sorted(ax.texts, key=lambda text: "far above" in text.get_text())
    assert not known.get_window_extent().overlaps(far.get_window_extent())


def test_workers_has_the_backlog_behind():
    """Workers on the left axis, messages that wait as an area on the right one."""
    trace = run()
    ax = plots.workers(trace)
    same_steps(metrics.concurrency(trace, "limited"), line(ax, "workers"))
    (behind,) = [other for other in ax.figure.axes if other is not ax]
    assert behind.get_ylabel() == "messages waiting (count)"
    assert behind.get_zorder() < ax.get_zorder()
    (area,) = behind.collections
    corners = area.get_paths()[0].vertices
    time, count = metrics.backlog(trace)
    assert count.max() == corners[:, 1].max()
    upper = {(x, y) for x, y in corners}
    assert {(t, n) for t, n in zip(time, count, strict=True)} <= upper


def test_workers_and_backlog_compare_several_traces():
    """One labelled line a trace, all different without colour, and each distinct limit once."""
    traces = {"measured": run(), "predicted": run(seed=1), "slower": run(worker_concurrency=12)}
    pairs = list(traces.items())
    ax = plots.workers(pairs)
    for label, trace in pairs:
        same_steps(metrics.concurrency(trace, "limited"), line(ax, label))
    limits = {20: "#000000", 12: "#000000"}
    assert limits == limits_of(ax)
    assert list(traces) == [text.get_text() for text in ax.get_legend().get_texts()]
    assert [ax] == ax.figure.axes
    ax = plots.backlog(pairs)
    for label, trace in pairs:
        same_steps(metrics.backlog(trace), line(ax, label))
    assert list(traces) == [text.get_text() for text in ax.get_legend().get_texts()]
    assert len(traces) == len({dashes(line(ax, label)) for label in traces})


def test_backlog_shows_exactly_what_metrics_counts():
    """Messages that wait, step by step."""
    trace = run()
    same_steps(metrics.backlog(trace), line(plots.backlog(trace), "backlog"))


def test_latency_shows_the_share_of_items_within_each_time():
    """Waiting and sojourn of each lane, sorted, with the 95th percentile of metrics.summary marked."""
    trace = run()
    ax = plots.latency(trace)
    lanes = metrics.summary(trace)["lanes"]
    marked = {tuple(np.ravel(one.get_data())) for one in ax.lines if one.get_marker() == "o"}
    assert {(lanes[lane][f"p95_{name}"], 0.95) for lane in lanes for name in ("waiting", "sojourn")} == marked
    for lane in lanes:
        items = trace.items[trace.items["lane"] == lane]
        for name, start, end in (
            ("waiting", "enqueued", "service_start"),
            ("sojourn", "arrival", "returned"),
        ):
            curve = line(ax, f"{lane}, {name} (p95 {lanes[lane][f'p95_{name}']:.3g} s)")
            values = np.sort(items[end] - items[start])
            np.testing.assert_allclose(curve.get_xdata()[1:], values)
            np.testing.assert_allclose(curve.get_ydata()[1:], np.arange(1, len(values) + 1) / len(values))


def test_latency_takes_a_logarithmic_axis_where_times_differ_widely():
    """Only there: times of one size are easier to read on an even axis."""
    alike = run(siphon_share=0.0, direct_seconds=1.0, failure_rate=0.0)
    assert plots.latency(alike).get_xscale() == "linear"
    wide = plots.latency(run(direct_seconds=0.001, siphon_share=0.3, failure_rate=0.0))
    assert wide.get_xscale() == "log"
    assert wide.get_xlim()[0] > 0


def test_latency_leaves_out_times_that_never_came():
    """A lane in which no item was served has a sojourn time but no waiting time."""
    trace = run(siphon_share=1.0)
    nothing = trace.items.assign(service_start=NAN, service_end=NAN, outcome="timed_out")
    ax = plots.latency(replace(trace, items=nothing))
    labels = [text.get_text().split(" (")[0] for text in ax.get_legend().get_texts()]
    assert labels == ["limited, sojourn"]


def test_gantt_has_a_light_bar_an_item_and_a_dark_bar_an_attempt():
    """From arrival to return, and from start to end; what did not succeed is hatched."""
    trace = run(items=40)
    ax = plots.gantt(trace)
    items, attempts = trace.items, trace.attempts
    whole = set(zip(items["item"], items["arrival"], items["returned"] - items["arrival"], strict=True))
    assert whole == bars(ax, hatched=False, faint=True)
    succeeded = attempts["outcome"] == "succeeded"
    assert not succeeded.all()
    for rows, hatched in ((attempts[succeeded], False), (attempts[~succeeded], True)):
        expected = set(zip(rows["item"], rows["start"], rows["end"] - rows["start"], strict=True))
        assert expected == bars(ax, hatched=hatched, faint=False)


def test_gantt_colours_an_item_by_its_lane():
    """The colours of the lanes in the other figures."""
    trace = run(items=40)
    ax = plots.gantt(trace)
    for bar in ax.patches:
        lane = trace.items["lane"][round(bar.get_y() + bar.get_height() / 2)]
        color = line(
            plots.timeline(trace), {"direct": "direct invocations"}.get(lane, "limited workers")
        ).get_color()
        assert to_hex(color) == to_hex(bar.get_facecolor())
        plt.close()


def test_gantt_shows_evenly_spread_items_of_many():
    """The first, the last, and as many as asked for."""
    ax = plots.gantt(run(), items=5)
    rows = {round(bar.get_y() + bar.get_height() / 2) for bar in ax.patches}
    assert {0, 1, 2, 3, 4} == rows
    assert [label.get_text() for label in ax.get_yticklabels()] == ["0", "50", "100", "149", "199"]
    assert ax.yaxis_inverted()


def test_gantt_leaves_out_lost_attempts():
    """Nobody saw their end."""
    trace = run(items=40)
    lost = replace(trace, attempts=trace.attempts.assign(end=NAN, outcome="lost"))
    ax = plots.gantt(lost)
    assert not bars(ax, hatched=False, faint=False) | bars(ax, hatched=True, faint=False)
    assert len(bars(ax, hatched=False, faint=True)) == 40


@pytest.mark.parametrize("plot", PLOTS)
def test_a_figure_goes_into_the_axes_it_is_given(plot):
    """The axes come back, no other figure is opened, and a single trace needs no axes."""
    _, (left, right) = plt.subplots(1, 2)
    assert left is plot(run(), left)
    assert not right.has_data()
    assert len(plt.get_fignums()) == 1
    assert plot(run()).figure is not left.figure


@pytest.mark.parametrize("plot", PLOTS)
def test_axis_labels_are_lower_case_with_units(plot):
    """Times in seconds; counts, shares and numbers say what they count."""
    ax = plot(run())
    assert ax.get_xlabel() in ("time since start (s)", "time (s)")
    for one in ax.figure.axes:
        for label in filter(None, (one.get_xlabel(), one.get_ylabel())):
            assert label == label.lower()
            assert label.endswith(")") or label == "share of items"


@pytest.mark.parametrize("plot", PLOTS)
def test_a_figure_can_be_read(plot):
    """150 dpi, no letter under 10 points, and no legend or label outside the figure or on the data."""
    ax = plot(run())
    figure = ax.figure
    figure.draw_without_rendering()
    assert figure.dpi == 150
    assert all(text.get_fontsize() >= 10 for text in figure.findobj(Text) if text.get_text())
    whole, inside = figure.bbox, ax.get_window_extent()
    legend = ax.get_legend()
    if legend:
        box = legend.get_window_extent()
        assert not box.overlaps(inside)
        assert whole.x0 <= box.x0 < box.x1 <= whole.x1
        assert whole.y0 <= box.y0 < box.y1 <= whole.y1
    labels = [one.label.get_window_extent() for part in figure.axes for one in (part.xaxis, part.yaxis)]
    for box in labels:
        assert whole.x0 <= box.x0
        assert box.x1 <= whole.x1
    assert inside.width > 0.6 * whole.width


@pytest.mark.parametrize("plot", PLOTS)
def test_the_style_stays_inside(plot):
    """A figure of the lab changes no setting of the notebook's others."""
    before = dict(mpl.rcParams)
    plot(run())
    assert before == dict(mpl.rcParams)


def test_lines_differ_without_colour():
    """In grey, lines of one figure differ in style, and lanes differ in lightness too."""
    ax = plots.timeline(run())
    drawn = [line(ax, label) for label in ("children", "direct invocations", "limited workers")]
    assert len(drawn) == len({dashes(one) for one in drawn})
    dark, light = (luminance(to_rgb(one.get_color())) for one in drawn[1:])
    assert light - dark > 0.2


RETRIED = [
    (0.0, "started"),
    (0.1, "sent"),
    (0.3, "received"),
    (0.5, "beat"),
    (1.5, "ended"),
    (2.0, "started"),
    (2.1, "sent"),
    (2.2, "refused"),
    (2.4, "received"),
    (2.6, "beat"),
    (2.9, "answered"),
    (3.0, "ended"),
]


def callback(*events):
    return pd.DataFrame(events, columns=["time", "event"])


def row(ax, name) -> list[tuple[float, float]]:
    """The spans (from, to) that are drawn in the row of this name."""
    (at,) = [
        tick
        for tick, label in zip(ax.get_yticks(), ax.get_yticklabels(), strict=True)
        if label.get_text() == name
    ]
    drawn = [bar for bar in ax.patches if bar.get_y() < at < bar.get_y() + bar.get_height()]
    return [(bar.get_x(), round(bar.get_x() + bar.get_width(), 9)) for bar in drawn]


def deadlines(ax) -> list[float]:
    return [one.get_xdata()[0] for one in ax.lines if to_hex(one.get_color()) == "#000000"]


def test_sequence_shows_each_attempt_from_event_to_event():
    """The state from started to ended, its message from sent to received, the worker until it answers."""
    ax = plots.sequence(callback(*reversed(RETRIED)))
    expected = {
        "state machine": [(0.0, 1.5), (2.0, 3.0)],
        "queue": [(0.1, 0.3), (2.1, 2.4)],
        "worker": [(0.3, 2.2), (2.4, 2.9)],
    }
    assert expected == {name: row(ax, name) for name in expected}
    at_once = sorted(time for time, event in RETRIED if event not in ("started", "ended"))
    assert at_once == sorted(one.get_xdata()[0] for one in ax.lines)
    assert {"refused", "answered"} == {text.get_text() for text in ax.texts}


def test_sequence_draws_the_deadlines_of_each_attempt():
    """The timeout counts from the attempt's start, the heartbeat from the last beat heard in the attempt."""
    ax = plots.sequence(callback(*RETRIED), timeout_seconds=4, heartbeat_seconds=1)
    expected = [0 + 4, 0.5 + 1, 2 + 4, 2.6 + 1]
    assert expected == deadlines(ax)
    assert {"timeout 4 s", "heartbeat 1 s"} <= {text.get_text() for text in ax.texts}
    silent = callback((0, "started"), (0, "sent"), (1, "ended"), (1.5, "beat"))
    expected = [1]
    assert expected == deadlines(plots.sequence(silent, heartbeat_seconds=1))
    assert not deadlines(plots.sequence(callback(*RETRIED)))


def test_sequence_draws_what_never_ended_to_the_last_event():
    """A message that nobody took waits, and a worker not heard of again works, to the end of the figure."""
    ax = plots.sequence(callback((0, "started"), (0, "sent"), (3, "ended")))
    expected = {"state machine": [(0, 3)], "queue": [(0, 3)], "worker": []}
    assert expected == {name: row(ax, name) for name in expected}
    ax = plots.sequence(callback((0, "started"), (0, "sent"), (1, "received"), (2, "beat")))
    expected = {"state machine": [(0, 2)], "queue": [(0, 1)], "worker": [(1, 2)]}
    assert expected == {name: row(ax, name) for name in expected}


def test_sequence_refuses_an_event_that_it_cannot_draw():
    """A misspelt event is named, not left out."""
    with pytest.raises(TraceError, match=r"'recieved'.*received"):
        plots.sequence(callback((0, "started"), (0, "recieved")))


def test_sequence_can_be_read():
    """Letters of 10 points and more, a unit on the axis, no text over another and none outside the figure."""
    ax = plots.sequence(callback(*RETRIED), heartbeat_seconds=1)
    ax.figure.draw_without_rendering()
    assert ax.get_xlabel() == "time since the task started (s)"
    assert all(text.get_fontsize() >= 10 for text in ax.figure.findobj(Text) if text.get_text())
    boxes = [text.get_window_extent() for text in ax.texts]
    assert not any(one.overlaps(other) for at, one in enumerate(boxes) for other in boxes[:at])
    assert all(ax.figure.bbox.x0 <= box.x0 and box.x1 <= ax.figure.bbox.x1 for box in boxes)


def summary_of(**numbers) -> pd.DataFrame:
    """As `tune.medians` makes it, one setting for each number; intervals of 10 % around each."""
    rows = pd.DataFrame(numbers)
    measured = [name for name in ("makespan", "p95_sojourn", "usd", "ideal_makespan") if name in rows]
    spread = {f"{name}_low": 0.9 * rows[name] for name in measured}
    spread |= {f"{name}_high": 1.1 * rows[name] for name in measured}
    rows = rows.assign(setting=range(len(rows)), **spread)
    frontier = {
        f"frontier_{n}": tune.pareto(rows, "makespan", n) for n in ("usd", "p95_sojourn") if n in rows
    }
    return rows.assign(**frontier)


def test_scaling_shows_medians_intervals_ideal_and_knee():
    """Each as in the curve, both axes logarithmic, each value of the field a tick; the knee is named."""
    along = summary_of(
        worker_concurrency=[2, 4, 8, 16], makespan=[8.2, 4.1, 2.2, 2.1], ideal_makespan=[8.0, 4.0, 2.0, 2.0]
    )
    ax = plots.scaling(along, "worker_concurrency")
    ((drawn, _, (bars_drawn,)),) = ax.containers
    assert drawn.get_xdata().tolist() == [2, 4, 8, 16]
    assert drawn.get_ydata().tolist() == [8.2, 4.1, 2.2, 2.1]
    ends = [sorted(segment[:, 1]) for segment in bars_drawn.get_segments()]
    np.testing.assert_allclose(ends, along[["makespan_low", "makespan_high"]])
    assert line(ax, "ideal").get_ydata().tolist() == [8.0, 4.0, 2.0, 2.0]
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert ax.get_xticks().tolist() == [2, 4, 8, 16]
    assert ax.get_xlabel() == "worker_concurrency (count)"
    assert ax.get_ylabel() == "makespan (s)"
    assert [text.get_text() for text in ax.texts] == ["knee 8"]


def test_scaling_without_a_knee_names_none():
    """Perfect scaling is a straight line; two curves are told apart by label and by line."""
    along = summary_of(map_concurrency=[2, 4, 8], makespan=[8.0, 4.0, 2.0], ideal_makespan=[8.0, 4.0, 2.0])
    ax = plots.scaling([("a", along), ("b", along)], "map_concurrency")
    assert list(ax.texts) == []
    assert len({dashes(drawn) for drawn, _, _ in ax.containers}) == 2
    assert line(ax, "a, ideal") is not None


def test_the_frontier_joins_what_nobody_beats():
    """Its points in order of makespan, by number; the others apart; the chosen one ringed."""
    summary = summary_of(makespan=[4.0, 1.0, 2.0, 3.0], usd=[1.0, 5.0, 3.0, 4.0], p95_sojourn=[1.0] * 4)
    ax = plots.frontier(summary, "usd", chosen=2)
    others, front = (container[0] for container in ax.containers)
    assert others.get_xdata().tolist() == [3.0]
    assert front.get_xdata().tolist() == [1.0, 2.0, 4.0]
    assert front.get_ydata().tolist() == [5.0, 3.0, 1.0]
    assert sorted(text.get_text() for text in ax.texts) == ["0", "1", "2"]
    ring = line(ax, "recommended")
    assert (list(ring.get_xdata()), list(ring.get_ydata())) == ([2.0], [3.0])
    assert ax.get_xlabel() == "makespan (s)"
    assert ax.get_ylabel() == "cost of a run (US$)"


def test_a_setting_without_numbers_is_in_no_figure():
    """What failed has no place; points that coincide share a label."""
    summary = summary_of(makespan=[1.0, NAN, 1.0], usd=[1.0, NAN, 1.0])
    ax = plots.frontier(summary, "usd")
    assert [text.get_text() for text in ax.texts] == ["0, 2"]


def test_the_first_figure_of_a_notebook_is_not_its_last():
    """A backend that loads with the first figure goes on to show those of later cells."""
    draw = "ax = plots.timeline(simulate(Experiment(5)))"
    cells = ["from helpers import Experiment, plots, simulate", draw, draw]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, kernel_name="python3").execute()
    shown = [["image/png" in output["data"] for output in cell.outputs] for cell in notebook.cells]
    assert shown == [[], [True], [True]]


def test_limits_far_above_are_told_apart():
    """Two limits above the figure stand in one label, the higher one first."""
    ax = plots.timeline(make_trace(Experiment(10, map_concurrency=1_000, worker_concurrency=300)))
    told = [text.get_text() for text in ax.texts]
    assert told == ["map limit 1,000, far above\nworker limit 300, far above"]
