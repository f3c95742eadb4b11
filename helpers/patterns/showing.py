"""A Comparison as a table in words and as one figure."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from helpers import tune
from helpers.files import write_whole
from helpers.formatting import markdown as escaped
from helpers.formatting import to_csv
from helpers.patterns import aws, size
from helpers.patterns.comparison import BROKEN, FAULTS, PER, Comparison

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEFT = ("lost", "twice", "stuck")
"""What a fault leaves, in the order in which it is told."""
MEASURED = "#0072B2"
PREDICTED: dict[str, Any] = {"marker": "D", "facecolors": "none", "edgecolors": "black"}
_TITLES = {"dies": "a worker dies", "poison": "an item always fails"}
_TICKS = {"dies": "a worker\ndies", "poison": "an item\nalways fails"}


def rows(comparison: Comparison) -> list[dict[str, str]]:
    """The decision table: one row a pattern, each column's head and its text."""
    return [_row(comparison, row) for row in comparison.table.to_dict("records")]


def _row(comparison: Comparison, row: dict[Any, Any]) -> dict[str, str]:
    limit = comparison.experiment.worker_concurrency
    faults = {
        f"{title}: lost, twice, stuck": ", ".join(f"{row[f'{fault}_{what}']:g}" for what in LEFT)
        for fault, title in _TITLES.items()
        if f"{fault}_lost" in row
    }
    return {
        "pattern": row["title"],
        "makespan (s)": tune.readable(row["makespan"], 3),
        "p95 to result (s)": tune.readable(row["p95_result"], 3),
        "items/s": tune.readable(row["throughput"], 3),
        "efficiency": f"{row['efficiency']:.2f}",
        "predicted / measured": f"{row['ratio']:.2f} ({row['predicted_by']})",
        "peak / limit": f"{row['peak']} / {limit}",
        f"$ per {PER:,}": f"{row['usd']:.4f}" + (" + machines" if row["pattern"] in size.PROGRAMS else ""),
        "lines": f"{row['lines']}",
        **faults,
        "on AWS (s)": _on_aws(row),
        "what binds there": row["aws_binds"],
    }


def _on_aws(row: dict[Any, Any]) -> str:
    if _missing(row["aws_seconds"]):
        return "not at all"
    express = row["aws_express_seconds"]
    return f"{row['aws_seconds']:.0f}" + ("" if _missing(express) else f" (Express {express:.0f})")


def _missing(value: Any) -> bool:
    return value is None or math.isnan(value)


def text(comparison: Comparison) -> str:
    """What the table is of, the table, and what was left out, for a terminal: one block a pattern."""
    told = [about(comparison), ""]
    for row in rows(comparison):
        title = row.pop("pattern")
        width = max(map(len, row))
        told += [title, *(f"  {head:<{width}}  {value}" for head, value in row.items())]
    return "\n".join(told + [f"left out: {name}, as {why}" for name, why in comparison.left_out.items()])


def markdown(comparison: Comparison) -> str:
    """The same in Markdown, one row a pattern."""
    table = rows(comparison)
    heads = list(table[0])
    cells = [[escaped(row[head]) for head in heads] for row in table]
    lines = [heads, ["---"] * len(heads), *cells]
    out = [f"Left out: `{name}`, as {escaped(why)}." for name, why in comparison.left_out.items()]
    return "\n".join([about(comparison), "", *("| " + " | ".join(line) + " |" for line in lines), "", *out])


def save(comparison: Comparison, folder: Path) -> Path:
    """Write comparison.json, comparison.csv, patterns.md and patterns.png into a folder; return it."""
    import matplotlib.pyplot as plt

    write_whole(folder / "comparison.json", json.dumps(comparison.to_dict(), indent=1))
    write_whole(folder / "comparison.csv", to_csv(comparison.table))
    write_whole(folder / "patterns.md", markdown(comparison))
    drawn = figure(comparison)
    drawn.savefig(folder / "patterns.png")
    plt.close(drawn)
    return folder


def about(comparison: Comparison) -> str:
    """What was run, and what the columns mean, in sentences."""
    did, scale = comparison.experiment, aws.SCALE
    return (
        f"{did.items:,} items of {_time(did.limited_seconds)}, {did.worker_concurrency} at once, "
        f"{comparison.repetitions} times by each pattern on {comparison.engine}: medians; ideally "
        f"{comparison.ideal:.3g} s. Counts of items after a fault are of a run of its own. Costs are AWS's, "
        f"planned. On AWS, predicted from quotas, not measured: {scale.items:,} items of "
        f"{_time(scale.limited_seconds)}, {scale.worker_concurrency:,} at once, ideally "
        f"{aws.IDEAL_SECONDS:g} s."
    )


def _time(seconds: Any) -> str:
    return f"{seconds:g} s" if isinstance(seconds, float | int) else f"{seconds}"


def figure(comparison: Comparison) -> Figure:
    """A row for each pattern: times here and on AWS, cost, lines, and what faults leave, side by side."""
    import matplotlib.pyplot as plt

    from helpers import plots

    with plt.style.context(plots.STYLE):
        table = comparison.table
        place = np.arange(len(table))
        fig, axes = plt.subplots(
            1,
            5,
            sharey=True,
            figsize=(13, 2.1 + 0.45 * len(table)),
            gridspec_kw={"width_ratios": [3, 2.3, 2.1, 1.5, 3]},
        )
        _times(axes[0], comparison, place)
        _on_scale(axes[1], comparison, place)
        _dollars(axes[2], table, place)
        _lines(axes[3], table, place)
        _faults(axes[4], comparison, place)
        axes[0].set_yticks(place, table["title"])
        axes[0].set_ylim(len(table) - 0.4, -0.6)
        for ax in axes:
            ax.grid(axis="y", visible=False)
            for row in place[::2]:
                ax.axhspan(row - 0.5, row + 0.5, color="#000000", alpha=0.04, linewidth=0)
        handles = {
            name: handle
            for ax in axes[:2]
            for handle, name in zip(*ax.get_legend_handles_labels(), strict=True)
        }
        fig.legend(handles.values(), handles, loc="outside lower left", ncols=len(handles))
        return fig


def _times(ax: Axes, comparison: Comparison, place: Any) -> None:
    from helpers import plots

    table = comparison.table
    ends = [table["makespan"] - table["makespan_low"], table["makespan_high"] - table["makespan"]]
    look: dict[str, Any] = {"color": MEASURED, "capsize": 3, "markersize": 7}
    ax.errorbar(table["makespan"], place, xerr=ends, fmt="s", label="makespan", **look)
    ax.scatter(table["p95_result"], place + 0.24, s=30, color="#E69F00", label="p95 of time to result")
    ax.scatter(table["predicted"], place - 0.24, s=30, label="predicted", **PREDICTED)
    ax.axvline(comparison.ideal, label="ideal", **plots.LIMIT)
    ax.set(xlabel="time since start (s)", xlim=(0, None))
    ax.set_title(f"on {comparison.engine}", loc="left")


def _on_scale(ax: Axes, comparison: Comparison, place: Any) -> None:
    from helpers import plots

    table = comparison.table
    seconds, express = (table[name].astype(float) for name in ("aws_seconds", "aws_express_seconds"))
    ax.scatter(seconds, place, s=45, **PREDICTED)
    ax.scatter(express, place, s=45, marker="d", color="#CC79A7", label="predicted, Express children")
    for at in place[seconds.isna()]:
        where: dict[str, Any] = {
            "xycoords": ("axes fraction", "data"),
            "ha": "right",
            "va": "center",
            "fontsize": "small",
        }
        ax.annotate("too many events", (0.98, at), **where)
    ideal = aws.IDEAL_SECONDS
    ax.axvline(ideal, **plots.LIMIT)
    most = np.nanmax([*seconds, *express, ideal])
    ax.set(xscale="log", xlim=(ideal / 2, 2.5 * most), xlabel="makespan (s)")
    ax.set_title(f"{aws.SCALE.items:,} on AWS", loc="left")


def _dollars(ax: Axes, table: pd.DataFrame, place: Any) -> None:
    ax.scatter(table["usd"], place, color=MEASURED, s=55)
    _beside(ax, table["usd"], place, "${:.3f}")
    for at in place[table["pattern"].isin(size.PROGRAMS)]:
        look: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": "small"}
        ax.annotate("+ machines", (table["usd"][at], at), (6, -13), **look)
    ax.set(xscale="log", xlim=(table["usd"].min() / 2, 20 * table["usd"].max()))
    ax.set(xlabel=f"US dollars, {PER:,} items")
    ax.set_title("cost on AWS", loc="left")


def _lines(ax: Axes, table: pd.DataFrame, place: Any) -> None:
    ax.barh(place, table["lines"], height=0.5, color="#999999")
    _beside(ax, table["lines"], place, "{:.0f}")
    ax.set(xlabel="lines", xlim=(0, 1.6 * table["lines"].max()))
    ax.set_title("to write", loc="left")


def _faults(ax: Axes, comparison: Comparison, place: Any) -> None:
    known = [fault for fault in FAULTS if f"{fault}_lost" in comparison.table]
    for column, fault in enumerate(known):
        for at, row in zip(place, comparison.table.to_dict("records"), strict=True):
            left = [(what, int(row[f"{fault}_{what}"])) for what in LEFT]
            said = ", ".join(f"{number} {what}" for what, number in left if number)
            look: dict[str, Any] = {"color": "#B33A00", "weight": "bold"} if said else {"color": "#555555"}
            ax.annotate(said or "no harm", (column, at), ha="center", va="center", fontsize="small", **look)
    ax.set(xlim=(-0.5, max(len(known), 1) - 0.5), xlabel=f"items, of {BROKEN.items}")
    ax.set_xticks(range(len(known)), [_TICKS[fault] for fault in known])
    ax.grid(visible=False)
    ax.set_title("what a fault leaves", loc="left")


def _beside(ax: Axes, values: Any, place: Any, form: str) -> None:
    for at, value in zip(place, values, strict=True):
        ax.annotate(form.format(value), (value, at), (6, 0), textcoords="offset points", va="center")
