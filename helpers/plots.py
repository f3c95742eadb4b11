"""Figures of traces and of sweeps: one idea each, limits dashed and black, readable without colour."""

from collections.abc import Callable, Sequence
from functools import wraps
from itertools import zip_longest
from pathlib import Path
from typing import Any, ParamSpec

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, LogLocator, NullFormatter, NullLocator, StrMethodFormatter

from helpers import metrics, tune
from helpers.errors import TraceError
from helpers.formatting import caption
from helpers.trace import LANES, Trace

__all__ = [
    "STYLE",
    "backlog",
    "frontier",
    "gantt",
    "latency",
    "save",
    "scaling",
    "sequence",
    "states",
    "timeline",
    "workers",
]

STYLE = Path(__file__).with_name("lab.mplstyle")
"""The style of these figures, for `plt.style.use` where others should match."""

# Okabe and Ito's colours, each of its own lightness and line style; black dashes are for limits alone.
LIMIT: dict[str, Any] = {"color": "#000000", "linestyle": "--", "linewidth": 1.2}
LOOK: dict[str, dict[str, Any]] = {
    "children": {"color": "#CC79A7", "linestyle": (0, (1, 0.5)), "linewidth": 3.5},
    "direct": {"color": "#0072B2", "linestyle": "-.", "linewidth": 1.8},
    "limited": {"color": "#E69F00", "linestyle": "-", "linewidth": 1.8},
}
COMPARED: list[dict[str, Any]] = [
    {"color": "#E69F00", "linestyle": "-"},
    {"color": "#0072B2", "linestyle": "-."},
    {"color": "#CC79A7", "linestyle": ":"},
    {"color": "#009E73", "linestyle": (0, (1, 2))},
    {"color": "#56B4E9", "linestyle": (0, (8, 2, 1, 2, 1, 2))},
]
WAITING = "#AAAAAA"
MINUTE = 60.0
"""The resolution of CloudWatch's metrics (s)."""
FAILED: dict[str, Any] = {"hatch": "/////", "edgecolor": "white"}
SINCE_START = "time since start (s)"

P = ParamSpec("P")


def _styled(draw: Callable[P, Axes]) -> Callable[P, Axes]:
    """Draw in the lab's style, wherever the function is called from."""

    @wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> Axes:
        # The backend loads here: within the style it would lose what it sets, to show each figure of a cell.
        plt.draw_if_interactive()  # type: ignore[no-untyped-call]
        with plt.style.context(STYLE):
            return draw(*args, **kwargs)

    return styled


@_styled
def timeline(trace: Trace, ax: Axes | None = None) -> Axes:
    """Children of the map, direct invocations and limited workers at once over time, with both limits.

    A limit of more than twice the highest count lies above the figure, and its label says so. Where
    CloudWatch counted the functions' executions, each minute's highest count is a grey line.
    """
    ax = _axes(ax)
    _steps(ax, metrics.concurrency(trace), label="children", **LOOK["children"])
    for lane, label in (("direct", "direct invocations"), ("limited", "limited workers")):
        if (trace.items["lane"] == lane).any():
            _steps(ax, metrics.concurrency(trace, lane), label=label, **LOOK[lane])
    measured = trace.metrics[trace.metrics["metric"] == "ConcurrentExecutions"]
    if len(measured):
        minutes = measured["time"], measured["time"] + MINUTE
        label = "ConcurrentExecutions (CloudWatch)"
        ax.hlines(measured["value"], *minutes, label=label, color=WAITING, linewidth=1.2)
    experiment = trace.experiment
    _limits(ax, [(experiment.map_limit, "map limit"), (experiment.worker_concurrency, "worker limit")])
    ax.set(xlabel=SINCE_START, xlim=(0, None), ylabel="at once (count)")
    _legend(ax)
    return ax


@_styled
def workers(traces: Trace | Sequence[tuple[str, Trace]], ax: Axes | None = None) -> Axes:
    """Workers of the limited lane at once over time against their limit, one line a trace.

    traces: one Trace, or (label, trace) pairs to compare. Of a single one, the messages that wait are drawn
    behind, on an axis of their own at the right.
    """
    ax, pairs = _axes(ax), _pairs(traces)
    for (label, trace), look in zip(pairs, _looks(pairs), strict=True):
        _steps(ax, metrics.concurrency(trace, "limited"), label=label or "workers", **look)
    _limits(ax, [(trace.experiment.worker_concurrency, "worker limit") for _, trace in pairs])
    ax.set(xlabel=SINCE_START, xlim=(0, None), ylabel="workers at once (count)")
    if len(pairs) == 1:
        behind = ax.twinx()
        time, count = metrics.backlog(pairs[0][1])
        behind.fill_between(
            time, count, step="post", color=WAITING, alpha=0.5, linewidth=0, label="messages waiting"
        )
        behind.set(ylabel="messages waiting (count)", ylim=(0, None))
        behind.grid(False)
        behind.spines["right"].set_visible(True)
        ax.set_zorder(behind.get_zorder() + 1)
        ax.patch.set_visible(False)
        _legend(ax, *behind.collections)
    else:
        _legend(ax)
    return ax


@_styled
def backlog(traces: Trace | Sequence[tuple[str, Trace]], ax: Axes | None = None) -> Axes:
    """Messages that wait in the queue over time, one line a trace.

    traces: one Trace, or (label, trace) pairs to compare.
    """
    ax, pairs = _axes(ax), _pairs(traces)
    for (label, trace), look in zip(pairs, _looks(pairs), strict=True):
        _steps(ax, metrics.backlog(trace), label=label or "backlog", **look)
    ax.set(xlabel=SINCE_START, xlim=(0, None), ylabel="messages waiting (count)", ylim=(0, None))
    if len(pairs) > 1:
        _legend(ax)
    return ax


@_styled
def latency(trace: Trace, ax: Axes | None = None) -> Axes:
    """Share of the items of each lane that waited, and that were done, within a time; 95 % marked.

    Waiting time: thin; sojourn time: thick. The time axis is logarithmic where times differ widely, and the
    curves then enter it at the share of items that took no time.
    """
    ax = _axes(ax)
    positive = []
    for lane in LANES:
        items = trace.items[trace.items["lane"] == lane]
        for name, start, end, width in (
            ("waiting", "enqueued", "service_start", 1.2),
            ("sojourn", "arrival", "returned", 2.4),
        ):
            values = (items[end] - items[start]).dropna()
            if len(values):
                p95 = float(values.quantile(0.95))
                look = LOOK[lane] | {"linewidth": width}
                ax.ecdf(values, label=f"{lane}, {name} (p95 {p95:.3g} s)", **look)
                ax.plot([p95], [0.95], "o", color=look["color"], markersize=3 + 2 * width)
                positive.append(values[values > 0])
    times = pd.concat(positive) if positive else pd.Series(dtype="float64")
    if times.max() > 30 * times.median():
        ax.set_xscale("log")
        ax.set_xlim(left=max(0.8 * times.min(), times.max() / 1e4))
    ax.set(xlabel="time (s)", ylabel="share of items", ylim=(0, 1.02), yticks=[0, 0.25, 0.5, 0.75, 0.95])
    _legend(ax, columns=2)
    return ax


@_styled
def gantt(trace: Trace, ax: Axes | None = None, items: int = 40) -> Axes:
    """One bar an item, from its arrival to its return: light while it waits, dark in each attempt.

    Of more than `items` items, evenly spread ones are shown. Attempts that did not succeed are hatched; lost
    ones, whose end nobody saw, are not drawn.
    """
    ax = _axes(ax)
    count = min(items, len(trace.items))
    shown = trace.items.iloc[np.linspace(0, len(trace.items) - 1, count).round().astype(int)]
    place, lanes = pd.Series(np.arange(count), shown["item"]), set(shown["lane"])
    attempts = trace.attempts[trace.attempts["item"].isin(place.index)].dropna(subset="end")
    for lane in LANES:
        own = shown[shown["lane"] == lane]
        served = attempts[attempts["item"].isin(own["item"])]
        good = served["outcome"] == "succeeded"
        look: dict[str, Any] = {"color": LOOK[lane]["color"], "linewidth": 0}
        _bars(ax, place, own, "arrival", "returned", alpha=0.3, **look)
        _bars(ax, place, served[good], "start", "end", **look)
        _bars(ax, place, served[~good], "start", "end", **look, **FAILED)
    ticks = place.iloc[:: max(1, count // 10)]
    ax.set_yticks(ticks.to_numpy(), [str(item) for item in ticks.index])
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set(xlabel=SINCE_START, xlim=(0, None), ylabel="item (number)")
    _legend(
        ax,
        *(Patch(color=LOOK[lane]["color"], label=f"{lane} service") for lane in LANES if lane in lanes),
        Patch(facecolor="#777777", linewidth=0, label="failed attempt", **FAILED),
        Patch(color="#777777", alpha=0.3, label="waiting"),
        columns=4,
    )
    return ax


UNITS = {"makespan": "makespan (s)", "p95_sojourn": "p95 of sojourn time (s)", "usd": "cost of a run (US$)"}


@_styled
def scaling(
    curves: pd.DataFrame | Sequence[tuple[str, pd.DataFrame]], field: str, ax: Axes | None = None
) -> Axes:
    """Makespan against one field of the settings, both logarithmic: medians with their 95 % intervals.

    curves: one of `tune.curve`, or (label, curve) pairs to compare. Thin: the ideal makespan of the same
    settings. Where the curve has a knee (see `tune.knee`), it is ringed.
    """
    ax = _axes(ax)
    pairs = [("", curves)] if isinstance(curves, pd.DataFrame) else list(curves)
    for (label, along), look in zip(pairs, _looks(pairs), strict=True):
        x, y = along[field].to_numpy(np.float64), along["makespan"].to_numpy(np.float64)
        spread = np.abs(along[["makespan_low", "makespan_high"]].to_numpy(np.float64).T - y)
        name = f"{label}, " if label else ""
        ax.errorbar(x, y, spread, label=f"{name}measured", marker="o", markersize=5, capsize=4, **look)
        ax.plot(x, along["ideal_makespan"], label=f"{name}ideal", **look | {"linewidth": 0.9})
        if (at := tune.knee(x.tolist(), y.tolist())) is not None:
            ax.plot(x[at], y[at], "o", markersize=14, fillstyle="none", color=look["color"])
            ax.annotate(f"knee {x[at]:g}", (x[at], y[at]), (10, 10), textcoords="offset points", fontsize=10)
    ax.set(xscale="log", yscale="log", xlabel=f"{field} (count)", ylabel=UNITS["makespan"])
    ax.xaxis.set_major_locator(FixedLocator(sorted({value for _, along in pairs for value in along[field]})))
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_formatter(NullFormatter())
    ax.xaxis.set_minor_locator(NullLocator())
    _legend(ax, columns=2)
    return ax


@_styled
def frontier(summary: pd.DataFrame, number: str, ax: Axes | None = None, chosen: int | None = None) -> Axes:
    """Every setting by its makespan and one more number, "usd" or "p95_sojourn", with 95 % intervals.

    summary: of `tune.medians`. Those on the Pareto frontier are joined and carry the number of their
    setting; the chosen one is ringed.
    """
    ax = _axes(ax)
    known = summary.dropna(subset=["makespan", number])
    on = known[f"frontier_{number}"]
    for name, rows, look in (
        ("other settings", known[~on], {"color": WAITING, "fmt": "s"}),
        ("Pareto frontier", known[on].sort_values("makespan"), {"color": COMPARED[1]["color"], "fmt": "o-"}),
    ):
        spread = [
            np.abs(rows[[f"{of}_low", f"{of}_high"]].to_numpy(np.float64).T - rows[of].to_numpy(np.float64))
            for of in (number, "makespan")
        ]
        ax.errorbar(rows["makespan"], rows[number], *spread, label=name, markersize=6, elinewidth=0.8, **look)
    # Points so near that their numbers would lie on top of each other share a label.
    places = (20 * known[["makespan", number]] / known[["makespan", number]].max()).round()
    for _, alike in known[on].groupby([places["makespan"][on], places[number][on]]):
        names = ", ".join(map(str, alike["setting"]))
        point = alike[["makespan", number]].iloc[0]
        ax.annotate(names, (point.iloc[0], point.iloc[1]), (5, 5), textcoords="offset points", fontsize=10)
    if chosen is not None:
        row = known[known["setting"] == chosen].iloc[0]
        ring = {"markersize": 15, "fillstyle": "none", "color": COMPARED[0]["color"], "markeredgewidth": 2}
        ax.plot(row["makespan"], row[number], "o", label="recommended", linestyle="none", **ring)
    # From 0 on: settings that cost the same to a thousandth shall look so.
    ax.set(xlabel=UNITS["makespan"], ylabel=UNITS[number], ylim=(0, 1.15 * known[f"{number}_high"].max()))
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    _legend(ax, columns=2)
    return ax


@_styled
def states(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """One bar a state: the median of its attempts' waiting, light, then that of their service, dark.

    table: as `Observation.by_state` gives it. A line goes on to the p95 of both together. Of many states, the
    dozen that took the longest.
    """
    ax = _axes(ax)
    shown = table.fillna(0.0).nlargest(12, "p95_total")[::-1]
    median = shown["p50_waiting"] + shown["p50_service"]
    names = [
        f"{caption(state)} ({attempts:,})"
        for state, attempts in zip(shown["state"], shown["attempts"], strict=True)
    ]
    place = np.arange(len(names))
    ax.hlines(place, median, shown["p95_total"], color="#777777", linewidth=1.2)
    ax.plot(shown["p95_total"], place, "|", color="#777777", label="p95 of both")
    ax.barh(place, shown["p50_waiting"], color=WAITING, alpha=0.5, linewidth=0, label="waiting")
    service = {"color": LOOK["direct"]["color"], "linewidth": 0, "label": "service"}
    ax.barh(place, shown["p50_service"], left=shown["p50_waiting"], **service)
    ax.set_yticks(place, names, parse_math=False)
    ax.grid(axis="y", visible=False)
    ax.set(xlabel="median time of an attempt (s)", xlim=(0, None), ylabel="state (attempts)")
    _legend(ax)
    return ax


def _bars(ax: Axes, place: "pd.Series[int]", rows: pd.DataFrame, start: str, end: str, **look: Any) -> None:
    ax.barh(place[rows["item"]], rows[end] - rows[start], left=rows[start], **look)


def save(path: Path, draw: Callable[[Axes], object]) -> None:
    """Write what `draw` draws into new axes as a figure of its own, in the lab's style."""
    with plt.style.context(STYLE):
        figure = plt.figure()
        draw(figure.add_subplot())
        figure.savefig(path)
        plt.close(figure)


def _axes(ax: Axes | None) -> Axes:
    return plt.figure().add_subplot() if ax is None else ax


def _pairs(traces: Trace | Sequence[tuple[str, Trace]]) -> list[tuple[str, Trace]]:
    return [("", traces)] if isinstance(traces, Trace) else list(traces)


def _looks(pairs: Sequence[Any]) -> list[dict[str, Any]]:
    return [COMPARED[at % len(COMPARED)] for at in range(len(pairs))]


def _steps(ax: Axes, counted: metrics.Steps, **look: Any) -> None:
    ax.step(*counted, where="post", **look)


def _limits(ax: Axes, limits: Sequence[tuple[int, str]]) -> None:
    """Each distinct limit as a line with its name and value at it, and room for it unless it is far above."""
    highest = max(float(np.max(line.get_ydata(), initial=0)) for line in ax.get_lines())
    named: dict[int, list[str]] = {}
    for limit, name in sorted(set(limits)):
        named.setdefault(limit, []).append(name)
    top = 1.15 * max([highest, 1.0, *(limit for limit in named if limit <= 2 * highest)])
    ax.set_ylim(0, top)
    labels = {limit: f"{' and '.join(names)} {limit:,}" for limit, names in named.items()}
    far = [f"{labels[limit]}, far above" for limit in sorted(named, reverse=True) if limit > top]
    for limit in named:
        ax.axhline(limit, **LIMIT)
        if limit <= top:
            # Below its line where the next limit, or what is far above, is so near that they would overlap.
            near = any(limit < other < limit + 0.08 * top for other in named)
            _told(ax, labels[limit], limit, "data", near or limit > (1 - 0.1 * (1 + len(far))) * top)
    if far:
        _told(ax, "\n".join(far), 1.0, "axes fraction", below=True)


def _told(ax: Axes, text: str, y: float, coordinates: str, below: bool) -> None:
    """A text at the right end of the axes, above or below this height."""
    ax.annotate(
        text,
        (0.99, y),
        xycoords=("axes fraction", coordinates),
        xytext=(0, -3 if below else 3),
        textcoords="offset points",
        ha="right",
        va="top" if below else "bottom",
        fontsize=10,
        bbox={"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 1},
    )


def _legend(ax: Axes, *more: Artist, columns: int = 3) -> None:
    """Above the axes, where it covers no data: what is labelled in them, and more."""
    handles, _ = ax.get_legend_handles_labels()
    legend = ax.legend(handles=[*handles, *more], loc="lower left", bbox_to_anchor=(0, 1), ncols=columns)
    for text in legend.get_texts():
        text.set_text(caption(text.get_text()))
        text.set_parse_math(False)


ROWS = {"state machine": 2, "queue": 1, "worker": 0}
SPANS: list[tuple[str, str, tuple[str, ...], dict[str, Any]]] = [
    ("state machine", "started", ("ended",), {"color": LOOK["children"]["color"]}),
    ("queue", "sent", ("received",), {"color": LOOK["limited"]["color"], "alpha": 0.3}),
    ("worker", "received", ("answered", "refused", "died"), {"color": LOOK["limited"]["color"]}),
]
"""What lasts: its row, the event that begins it, those that end it, its look."""
MOVES: dict[str, tuple[float, float, str]] = {
    "sent": (2, 1.2, "v"),
    "received": (1, 0.2, "v"),
    "beat": (0, 1.8, "^"),
    "answered": (0, 1.8, "^"),
    "refused": (0, 1.5, "X"),
    "died": (0, 0, "X"),
}
"""What happens at once: from which height to which, and the mark at its end."""


@_styled
def sequence(
    events: pd.DataFrame,
    ax: Axes | None = None,
    *,
    timeout_seconds: float | None = None,
    heartbeat_seconds: float | None = None,
) -> Axes:
    """One callback task in three rows, state machine, queue and worker, with the deadlines of its clocks.

    events: columns time (s since the task started) and event. `started` and `ended`: an attempt of the state;
    `sent` and `received`: its message; `beat`, `answered`, `refused` and `died`: the worker, whose beat or
    answer was refused at `refused`. What never ended is drawn to the last event. Of each attempt, the timeout
    counts from its start and the heartbeat from its last beat. Raises TraceError for another event.
    """
    if unknown := set(events["event"]) - {"started", "ended", *MOVES}:
        raise TraceError(f"event {min(unknown)!r}: not known; use started, ended, {', '.join(MOVES)}")
    ax = _axes(ax)
    happened = events.sort_values("time", kind="stable")
    last = float(happened["time"].max())

    def times(*names: str) -> list[float]:
        return [float(time) for time in happened.loc[happened["event"].isin(names), "time"]]

    for row, begins, ends, look in SPANS:
        for begin, end in zip_longest(times(begins), times(*ends)[: len(times(begins))], fillvalue=last):
            ax.barh(ROWS[row], end - begin, left=begin, height=0.4, linewidth=0, **look)
    for event, (low, high, mark) in MOVES.items():
        light: dict[str, Any] = {"color": "#777777", "linewidth": 0.8, "markersize": 4}
        look = light if event == "beat" else {"color": "#333333", "linewidth": 1.4, "markersize": 6}
        for time in times(event):
            ax.plot([time, time], [low, high], marker=mark, markevery=[1], **look)
            if event in ("answered", "refused", "died"):
                _name(ax, event, time, high if event == "refused" else 0, 6, 0, va="center")
    for start, end in zip_longest(times("started"), times("ended"), fillvalue=last):
        heard = max([start, *(beat for beat in times("beat") if start < beat <= end)])
        for name, since, seconds, side in (
            ("timeout", start, timeout_seconds, 1),
            ("heartbeat", heard, heartbeat_seconds, -1),
        ):
            if seconds is not None:
                ax.plot([since + seconds] * 2, [1.6, 2.4], **LIMIT)
                _name(
                    ax,
                    f"{name} {seconds:g} s",
                    since + seconds,
                    2 + 0.4 * side,
                    -3,
                    2 * side,
                    va="bottom" if side > 0 else "top",
                )
    ax.set_yticks(list(ROWS.values()), list(ROWS))
    ax.grid(axis="y", visible=False)
    ax.use_sticky_edges = False  # else the arrows at the start lie on the axis
    ax.margins(x=0.06)
    ax.set(xlabel="time since the task started (s)", ylim=(-0.4, 2.8))
    return ax


def _name(ax: Axes, text: str, x: float, y: float, right: float, up: float, va: str) -> None:
    """Text from this point on, moved by `right` and `up` (points)."""
    ax.annotate(text, (x, y), (right, up), textcoords="offset points", va=va, fontsize=10)
