"""A figure of a run that is redrawn while it runs: what waits, what is at work, what is back."""

# mypy: allow-untyped-calls
# (IPython's display carries no annotations)

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers import metrics, plots
from helpers.console import say
from helpers.experiment import Experiment
from helpers.trace import Trace

__all__ = ["LiveFigure", "Progress"]

REDRAWN_SECONDS = 1.0
"""Between two pictures, at least: as often as a Map Run is asked for its counts."""
DRAWING_SHARE = 0.1
"""Of a core, what drawing may take at most: the longer a picture takes, the fewer there are."""
SIZE_INCHES = 9.0, 5.8
WIDTH_PIXELS = 860
"""How wide the picture is shown, whatever its resolution."""
DPI = 80, 150
"""Resolution while it runs, and of the last picture."""
RETURNED = ("succeeded", "failed", "timedOut", "aborted")
"""The counts of a Map Run that are of items which are back."""
FIXED = {"figure.constrained_layout.use": False}
"""So that nothing but the curves moves from one picture to the next."""
SAMPLED: dict[str, Any] = {"color": "#000000", "alpha": 0.6, "markersize": 2.5, "linestyle": "none"}
"""The look of samples over the exact curve."""

Curve = tuple[npt.ArrayLike, npt.ArrayLike]


class LiveFigure:
    """What a run looks like while it runs: `engine.run(experiment, progress=LiveFigure())`.

    Three panels over time (s since the start), limits dashed: messages in flight, which workers have; those
    that wait, and children of the map; items that are back. While it runs, they are what SQS and the Map Run
    report, which are asked no more often than without it. At the end they are the trace's own, exact, and the
    samples lie over them as dots. A run that fails or is interrupted leaves its last picture.

    It is one output of the cell, redrawn once a second or less often, so that drawing takes a tenth of a core
    at most; of a notebook that is executed as a whole, only the last picture stays. An error in drawing is
    told once, and the run goes on without pictures. png: the last picture as a file; empty before the first.
    """

    def __init__(self) -> None:
        self.png = b""

    @contextlib.contextmanager
    def following(
        self,
        experiment: Experiment,
        samples: Iterable[dict[str, float]],
        counts: Iterable[dict[str, Any]] | None,
    ) -> Iterator[LiveFigure]:
        """Follow a run from now to the end of the block.

        samples and counts: of the queue (time, visible, in_flight) and of the Map Run (itemCounts with their
        time), None where there is no Map; they grow meanwhile. Times are epoch seconds.
        """
        self._experiment, self._samples, self._counts = experiment, samples, counts
        self._since, self._next = time.time(), 0.0
        self._shown: Any = None
        self._broken = False
        try:
            yield self
        except BaseException:
            self._draw("stopped after", None)
            raise

    def look(self) -> None:
        """Redraw, unless it is too early. For the thread that runs the cell."""
        if time.monotonic() >= self._next:
            began = time.thread_time()
            self._draw("running for", None)
            took = time.thread_time() - began
            self._next = time.monotonic() + max(REDRAWN_SECONDS, took / DRAWING_SHARE)

    def end(self, trace: Trace) -> None:
        """Draw the last picture, from the trace."""
        self._since = datetime.fromisoformat(trace.started).timestamp()
        self._draw("ended after", trace)

    def _draw(self, state: str, trace: Trace | None) -> None:
        if self._broken:
            return
        try:
            # The backend loads here, as in plots: within the style it would lose what it sets.
            plt.draw_if_interactive()
            with plt.style.context([plots.STYLE, FIXED]):
                figure, told = self._figure(state, trace)
                written = io.BytesIO()
                figure.savefig(written, dpi=DPI[trace is not None], format="png")
            self.png = written.getvalue()
            self._display(told)
        except Exception as error:  # a picture is not worth a run
            self._broken = True
            say(f"the figure is not redrawn any more: {type(error).__name__}: {error}", err=True)

    def _display(self, told: str) -> None:
        from IPython.core.getipython import get_ipython
        from IPython.display import Image, display

        if get_ipython() is None:
            return
        image = Image(self.png, format="png", width=WIDTH_PIXELS, alt=told)
        if self._shown is None:
            self._shown = display(image, display_id=True)
        else:
            self._shown.update(image)

    def _figure(self, state: str, trace: Trace | None) -> tuple[Figure, str]:
        """The picture, and what it says in words."""
        columns = ["time", "visible", "in_flight"]
        samples = pd.DataFrame(list(self._samples), columns=columns, dtype=float)
        if trace:  # the queue is looked at until the last picture is drawn, and after the run's end
            samples = samples[: len(trace.samples)]
        counts = pd.DataFrame(list(self._counts or ()), columns=["time", "running", *RETURNED], dtype=float)
        for table in (samples, counts):
            table["time"] = (table["time"] - self._since).clip(lower=0)
        back = counts["time"], counts[list(RETURNED)].sum(axis="columns")
        if self._counts is None:
            # What is not in the queue any more; before all had been sent, less was in it than later.
            depth = samples["visible"] + samples["in_flight"]
            back = samples["time"], self._experiment.items - depth[::-1].cummax()[::-1]
        batch = self._experiment.batch_size
        in_flight = samples if trace is None or batch == 1 else samples[:0]
        exact: list[metrics.Steps | None] = [None] * 4
        if trace:
            exact = [metrics.concurrency(trace, "limited"), metrics.concurrency(trace)]
            exact += [metrics.backlog(trace), _returned(trace)]
        waiting = {"color": "#555555", "linestyle": "-", "linewidth": 1.5}
        returned = plots.LOOK["direct"] | {"linestyle": "-"}
        curves: list[tuple[int, str, dict[str, Any], Curve, Curve | None]] = [
            (
                0,
                "workers" if trace else "messages in flight",
                plots.LOOK["limited"],
                (in_flight["time"], in_flight["in_flight"]),
                exact[0],
            ),
            (1, "children", plots.LOOK["children"], (counts["time"], counts["running"]), exact[1]),
            (1, "messages waiting", waiting, (samples["time"], samples["visible"]), exact[2]),
            (2, "items back", returned, back, exact[3]),
        ]
        if self._counts is None:
            del curves[1]
        figure = Figure(figsize=SIZE_INCHES)
        panels = figure.subplots(3, sharex=True)
        figure.subplots_adjust(left=0.08, right=0.97, top=0.88, bottom=0.09, hspace=0.38)
        for panel, label, look, sampled, known in curves:
            ax = panels[panel]
            ax.step(*(sampled if known is None else known), where="post", label=label, **look)
            if known is not None:
                label = "" if "as sampled" in ax.get_legend_handles_labels()[1] else "as sampled"
                ax.plot(*sampled, "o", label=label, **SAMPLED)
        workers = self._experiment.worker_concurrency
        if trace or batch == 1:
            _limit(panels[0], workers, "worker limit")
        else:
            _limit(panels[0], workers * batch, f"{batch} messages for each worker")
        if self._counts is not None:
            _limit(panels[1], self._experiment.map_limit, "map limit")
        _limit(panels[2], self._experiment.items, "all items")
        last = trace.items["returned"].max() if trace else time.time() - self._since
        done = trace.items["returned"].count() if trace else (int(back[1].iloc[-1]) if len(back[1]) else 0)
        told = f"{state} {last:.1f} s: {done:,} of {self._experiment.items:,} items are back"
        figure.suptitle(told, x=0.08, ha="left")
        panels[0].set(xlim=(0, max(0.1, last)))
        panels[2].set(xlabel=plots.SINCE_START)
        for ax in panels:
            ax.set_ylabel("count")
            # Above the curves, which may be anywhere below.
            ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, fontsize=9, borderaxespad=0.2)
        return figure, told


Progress = bool | LiveFigure
"""How a run is shown while it runs: as a bar (True), not at all (False), or as a figure."""


def _returned(trace: Trace) -> metrics.Steps:
    """Items that are back: (time (s), count)."""
    returned = np.sort(trace.items["returned"].dropna().to_numpy())
    return np.append(0.0, returned), np.arange(len(returned) + 1)


def _limit(ax: Axes, limit: int, name: str) -> None:
    """The limit as a dashed line with its name, or where it is far above, its name alone."""
    highest = max(float(np.max(line.get_ydata(), initial=0)) for line in ax.get_lines())
    near = not highest or limit <= 2 * highest or name == "all items"
    top = 1.3 * max(highest, 1.0, limit if near else 0)
    ax.set_ylim(0, top)
    if near:
        ax.axhline(limit, **plots.LIMIT)
    told = f"{name} {limit:,}" + ("" if near else ", far above")
    ax.annotate(
        told,
        (0.99, limit if near else top),
        (0, 3 if near else -3),
        xycoords=ax.get_yaxis_transform(),
        textcoords="offset points",
        ha="right",
        va="bottom" if near else "top",
        fontsize=9,
    )
