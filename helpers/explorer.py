"""Sliders for the settings of an Experiment, and the predicted run redrawn while they move; for notebooks."""

# mypy: allow-untyped-calls
# (Matplotlib's canvases carry no annotations)

import io
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import ipywidgets as widgets
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from helpers import cost, metrics, plots
from helpers.errors import LabError
from helpers.experiment import Experiment
from helpers.formatting import markup
from helpers.simulation import AWS_US_EAST_1, Quotas, simulate, usage
from helpers.trace import Trace

__all__ = ["explore"]

LADDER = (1, 2, 3, 5, 10, 20, 30, 50, 100, 200, 300, 500, 1_000, 2_000, 3_000, 5_000, 10_000)
STEPS: dict[str, tuple[float, ...]] = {
    "items": LADDER[8:],
    "map_concurrency": LADDER,
    "worker_concurrency": LADDER[1:13],
    "batch_size": tuple(range(1, 11)),
    "siphon_share": tuple(share / 20 for share in range(21)),
    "direct_seconds": (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0),
    "limited_seconds": (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0),
    "failure_rate": (0.0, 0.01, 0.05, 0.1, 0.2, 0.5),
}
"""The fields of Experiment that have a slider, and the values on it."""
PERCENTS = (50, 95, 99)
WIDTH = "840px"
"""The picture's: drawn at the size at which it is shown, its text is sharp."""
REACHED = 0.999
"""The share of a quota in use from which it counts as reached."""


def explore(experiment: Experiment, quotas: Quotas = AWS_US_EAST_1) -> widgets.Widget:
    """A widget that predicts the experiment under these quotas, and again whenever a slider moves.

    It shows makespan, percentiles, peaks and cost, and the timeline of the run. Settings without a slider
    stay as given. What an Experiment refuses is told in its own words, and the last run stays in sight.
    """
    picture, numbers = Picture(), widgets.HTML(layout=widgets.Layout(max_width=WIDTH))
    image = widgets.Image(format="png", layout=widgets.Layout(max_width=WIDTH))
    start = replace(experiment, map_concurrency=experiment.map_limit)
    sliders = {name: _slider(name, getattr(start, name)) for name in STEPS}

    def redraw(_: object = None) -> None:
        try:
            moved = replace(experiment, **{name: slider.value for name, slider in sliders.items()})
            trace = simulate(moved, quotas)
        except LabError as error:
            numbers.value = f"<b>Not possible:</b> {markup(str(error))}"
            return
        summary = metrics.summary(trace)
        numbers.value = _told(trace, summary, quotas)
        image.value = picture.draw(trace, summary)

    for slider in sliders.values():
        slider.observe(redraw, "value")
    redraw()
    columns = widgets.Layout(grid_template_columns="repeat(2, 1fr)", max_width=WIDTH)
    return widgets.VBox([widgets.GridBox(list(sliders.values()), layout=columns), numbers, image])


class Picture:
    """One figure that is drawn again and again: making a new one each time would take twice as long."""

    def __init__(self) -> None:
        # A layout that fits itself, as the lab's style has it, would draw everything twice.
        self._figure = Figure((8.4, 3.4), dpi=100, layout="none")  # type: ignore[arg-type]  # not in its stubs
        self._canvas = FigureCanvasAgg(self._figure)
        self.timeline, self.times = self._figure.subplots(1, 2, width_ratios=(3, 1.4))
        self._figure.subplots_adjust(left=0.08, right=0.98, bottom=0.16, top=0.87, wspace=0.45)

    def draw(self, trace: Trace, summary: Mapping[str, Any]) -> bytes:
        """The timeline of a trace, and waiting and sojourn times of its summary, as PNG."""
        self.timeline.clear()
        self.times.clear()
        plots.timeline(trace, self.timeline)
        _percentiles(summary, self.times)
        png = io.BytesIO()
        self._canvas.print_png(png)  # which, unlike savefig, leaves the layout as it is
        return png.getvalue()


def _percentiles(summary: Mapping[str, Any], ax: Any) -> None:
    names = [(time, percent) for time in ("sojourn", "waiting") for percent in reversed(PERCENTS)]
    values = [summary[f"p{percent}_{time}"] or 0.0 for time, percent in names]
    bars = ax.barh([f"{time} p{percent}" for time, percent in names], values, color=plots.WAITING)
    ax.bar_label(bars, fmt="{:.3g}", padding=3)
    ax.set(xlabel="seconds", xlim=(0, 1.25 * max(*values, 1e-9)))


def _slider(name: str, value: Any) -> widgets.SelectionSlider:
    if not isinstance(value, int | float):
        raise LabError(f"{name}={value}: a slider needs a number; give the explorer a constant time")
    return widgets.SelectionSlider(
        options=sorted({*STEPS[name], value}),
        value=value,
        description=name,
        style={"description_width": "10.5em"},
        layout=widgets.Layout(width="auto"),
    )


def _told(trace: Trace, summary: Mapping[str, Any], quotas: Quotas) -> str:
    use = usage.table(trace, quotas)
    reached = ", ".join(use["quota"][use["share"] >= REACHED]) or "none"
    lost = summary["items"] - summary["succeeded"]
    return (
        f"<div style='line-height: 1.5'><b>{summary['makespan']:,.4g} s</b> for {summary['items']:,} items "
        f"({summary['throughput']:,.4g} a second), {lost:,} not succeeded · at most {summary['peak_map']:,} "
        f"children and {summary['peak_workers']:,} workers at once · "
        f"<b>${cost.total(cost.of(trace)):,.4g}</b> · quotas reached: {reached}</div>"
    )
