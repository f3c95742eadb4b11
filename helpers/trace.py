"""What happened: one Trace for each run, whichever engine it ran on."""

import io
import zlib
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from helpers.errors import LabError, TraceError, shown
from helpers.experiment import Experiment
from helpers.files import write_whole

__all__ = ["ATTEMPT_OUTCOMES", "ITEM_TIMES", "LANES", "OUTCOMES", "Trace"]

LANES = ("direct", "limited")
OUTCOMES = ("succeeded", "failed", "timed_out", "dead_lettered")
ATTEMPT_OUTCOMES = ("succeeded", "failed", "late", "lost")
ITEM_TIMES = ["arrival", "enqueued", "service_start", "service_end", "returned"]
"""The times of an item, in the order in which they happen."""

FORMAT = 2
_SEAL = b"trace-crc32:"
_COLUMNS: dict[str, dict[str, str | tuple[str, ...]]] = {
    "items": {
        "item": "int64",
        "lane": LANES,
        "arrival": "float64",
        "enqueued": "float64",
        "service_start": "float64",
        "service_end": "float64",
        "returned": "float64",
        "attempts": "int64",
        "outcome": OUTCOMES,
    },
    "attempts": {
        "item": "int64",
        "attempt": "int64",
        "worker": "text",
        "start": "float64",
        "end": "float64",
        "outcome": ATTEMPT_OUTCOMES,
    },
    "samples": {"time": "float64", "visible": "int64", "in_flight": "int64"},
    "metrics": {"time": "float64", "metric": "text", "resource": "text", "value": "float64", "unit": "text"},
}
"""Each column's dtype, or that it is categorical: of these words in this order, or of any text."""


def _none(table: str) -> pd.DataFrame:
    return pd.DataFrame(columns=list(_COLUMNS[table]))


@dataclass(frozen=True, eq=False)
class Trace:
    """The record of one run. Times are float seconds since the execution started, NaN where they never came.

    items: one row an item, in the order in which the map returned the results.
        item, lane ("direct" or "limited"), arrival (its child execution began), enqueued (its message was
        sent; equals arrival in the direct lane), service_start and service_end (of the attempt that counted,
        or else of the last), returned (its child execution ended), attempts (how many),
        outcome ("succeeded", "failed", "timed_out" or "dead_lettered").
    attempts: one row an attempt.
        item, attempt (from 1), worker, start, end (NaN if lost), outcome ("succeeded", "failed",
        "late" for an answer that was refused because the task had ended or done again, or "lost": killed in
        the middle, or on its way to the worker, and then without a start).
    samples: the depth of the queue as SQS reports it, in messages: time, visible, in_flight. May be empty.
    metrics: what AWS itself measured; empty elsewhere. time, metric, resource (the stack's output that it is
        of, empty for the whole account), value, unit. Of CloudWatch's metrics the time is the beginning of a
        minute and the value its maximum; itemCounts.NAME are DescribeMapRun's, as sampled.
    started: UTC time of the execution's start, ISO 8601. versions: what ran, by name.
    clock_seconds: how far the engine's clocks may disagree, 0.0 where there is only one.

    Columns are brought to one dtype each, columns beyond these are left out, and rows keep their order.
    Text is categorical: lane in LANES, outcome in OUTCOMES or ATTEMPT_OUTCOMES, any text elsewhere. A column
    that has its dtype already is not copied before one of the two tables changes.
    Raises TraceError for a missing column, a value that does not fit its column, or a time that is not UTC.
    """

    experiment: Experiment
    engine: str
    items: pd.DataFrame
    attempts: pd.DataFrame
    samples: pd.DataFrame
    started: str
    versions: dict[str, str]
    clock_seconds: float
    metrics: pd.DataFrame = field(default_factory=lambda: _none("metrics"))

    def __post_init__(self) -> None:
        for name in _COLUMNS:
            object.__setattr__(self, name, _normalised(name, getattr(self, name)))
        for name, is_one, kind in (
            ("experiment", isinstance(self.experiment, Experiment), "an Experiment"),
            ("engine", isinstance(self.engine, str), "the engine's name"),
            ("versions", _are_texts(self.versions), "a dict of names and versions"),
        ):
            if not is_one:
                raise TraceError(f"{name}={shown(getattr(self, name))}: it must be {kind}; give that.")
        try:
            offset = datetime.fromisoformat(self.started).utcoffset()
        except (TypeError, ValueError):
            offset = None
        if offset != timedelta(0):
            raise TraceError(
                f"started={shown(self.started)}: it must be a UTC time in ISO 8601; end it with +00:00."
            )
        if not isinstance(self.clock_seconds, int | float) or not 0 <= self.clock_seconds < np.inf:
            raise TraceError(
                f"clock_seconds={shown(self.clock_seconds)}: it must be finite and >= 0; give seconds."
            )

    def rows(self, item: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """The row in `items` of each of these items (the first of several), -1 where there is none."""
        known, wanted = self.items["item"].to_numpy(), np.asarray(item, np.int64)
        if np.array_equal(known, np.arange(len(known))):
            return np.where((wanted >= 0) & (wanted < len(known)), wanted, -1)
        unique, first = np.unique(known, return_index=True)
        place = np.minimum(np.searchsorted(unique, wanted), len(unique) - 1)
        return np.where(unique[place] == wanted, first[place], -1)

    def attempts_of(self, lane: str) -> npt.NDArray[np.bool_]:
        """Which of the attempts are of an item of this lane; none whose item is not there."""
        lanes = np.append(self.items["lane"].array.codes, -1)
        return np.asarray(lanes[self.rows(self.attempts["item"])] == LANES.index(lane))

    def save(self, path: str | Path) -> Path:
        """Write the trace as one Parquet file and return its path.

        A file is there whole or not at all; raises FileError where it cannot be written.

        The file is one flat table that any Parquet reader can query: the rows of items, attempts,
        samples and metrics one after another, told apart by the column `record`, null in the columns that a
        record lacks. What is not a table is in `DataFrame.attrs`, which pandas keeps in the file's metadata.
        A checksum of the whole file, which other readers pass over, tells `load` of any damage.
        """
        path = Path(path)
        tables = [getattr(self, name) for name in _COLUMNS]
        dtypes: dict[Any, Any] = {}
        for table in tables:
            for column, dtype in table.dtypes.items():
                if dtype == "category" and column in dtypes:
                    words = dtypes[column].categories.union(dtype.categories)
                    dtype = pd.CategoricalDtype(words)
                # Int64 can hold nulls: int64 would turn to floats where another record lacks the column.
                dtypes[column] = "Int64" if dtype == "int64" else dtype
        padded = [table.reindex(columns=list(dtypes)).astype(dtypes) for table in tables]
        whole = pd.concat(padded, keys=list(_COLUMNS), names=["record", None]).reset_index("record")
        whole.attrs = {
            "format": FORMAT,
            "experiment": self.experiment.to_dict(),
            "engine": self.engine,
            "started": self.started,
            "versions": self.versions,
            "clock_seconds": self.clock_seconds,
        }
        write_whole(path, _sealed(whole.to_parquet(None, index=False, write_page_checksum=True)))
        return path

    @classmethod
    def load(cls, path: str | Path) -> "Trace":
        """The trace that `save` wrote. Raises TraceError that names the file and what is wrong with it."""
        try:
            content = Path(path).read_bytes()
            _check_seal(content)
            # Given a path, pandas would also read columns from "item=3/".
            whole = pd.read_parquet(io.BytesIO(content), page_checksum_verification=True)
        except FileNotFoundError as error:
            raise TraceError(
                f"{path}: cannot be read: {error.strerror}; give a trace that was saved"
            ) from error
        except Exception as error:  # what a damaged file makes of its readers is nowhere listed
            raise TraceError(f"{path}: cannot be read as Parquet ({error}); record the run again.") from error
        about: dict[str, Any] = {str(key): value for key, value in whole.attrs.items()}
        version = about.pop("format", None)
        if version is None:
            raise TraceError(f"{path}: is Parquet but no trace; give a file that Trace.save wrote.")
        if version not in (1, FORMAT):  # 1 had no metrics
            raise TraceError(
                f"{path}: has trace format {version}, but this release reads formats 1 and {FORMAT}; "
                f"read it with the release that wrote it, or record the run again."
            )
        try:
            about["experiment"] = Experiment.from_dict(about["experiment"])
            tables = [name for name in _COLUMNS if (version, name) != (1, "metrics")]
            about.update({name: whole[whole["record"] == name] for name in tables})
            return cls(**about)
        except (LabError, KeyError, TypeError, AttributeError) as error:
            raise TraceError(f"{path}: does not hold a whole trace ({error}); record it again.") from error


def _sealed(content: bytes) -> bytes:
    """A Parquet file with its checksum in front of its footer, between the parts that readers look at.

    Parquet has checksums of pages, but none of the footer, which holds all that is not in the tables.
    """
    footer = _footer(content)
    return content[:footer] + _SEAL + zlib.crc32(content).to_bytes(4, "little") + content[footer:]


def _check_seal(content: bytes) -> None:
    """Raise ValueError for a file that is not as it was sealed; one without a seal is let pass."""
    footer = _footer(content)
    seal = footer - len(_SEAL) - 4
    if content[seal : footer - 4] == _SEAL:
        checksum = zlib.crc32(memoryview(content)[footer:], zlib.crc32(memoryview(content)[:seal]))
        if content[footer - 4 : footer] != checksum.to_bytes(4, "little"):
            raise ValueError("its checksum is not that of its content")


def _footer(content: bytes) -> int:
    """Where a Parquet file's footer begins: its length comes after it, before the last four bytes."""
    return len(content) - 8 - int.from_bytes(content[-8:-4], "little")


def _normalised(name: str, frame: pd.DataFrame) -> pd.DataFrame:
    wanted = _COLUMNS[name]
    if not isinstance(frame, pd.DataFrame):
        raise TraceError(f"{name}={shown(frame)}: it must be a pandas.DataFrame; give one.")
    if twice := [column for column in wanted if list(frame).count(column) > 1]:
        raise TraceError(f"{name} has {twice} twice: a column is there once; leave one of them out.")
    missing = [column for column in wanted if column not in frame.columns]
    if missing:
        raise TraceError(f"{name} lacks {missing}: it needs {list(wanted)}; add what is missing.")
    table = (frame if list(frame) == list(wanted) else frame[list(wanted)]).reset_index(drop=True)
    table.attrs = {}
    for (column, kind), dtype in zip(wanted.items(), table.dtypes, strict=True):
        if dtype == kind or _are(kind, table[column]):
            continue
        try:
            table[column] = _cast(table[column], kind)
        except (TypeError, ValueError, OverflowError) as error:
            rule = kind if isinstance(kind, str) else f"one of {kind}"
            raise TraceError(f"{name}.{column} must be {rule} in every row ({error}); correct it.") from error
    return table


def _are_texts(versions: object) -> bool:
    return isinstance(versions, dict) and all(
        isinstance(text, str) for text in (*versions, *versions.values())
    )


def _are(kind: str | tuple[str, ...], values: "pd.Series[Any]") -> bool:
    """Whether the values are categorical as `_cast` would make them, in next to no time."""
    dtype = values.dtype
    if not isinstance(dtype, pd.CategoricalDtype):
        return False
    known = dtype.categories.dtype == "str" if kind == "text" else tuple(dtype.categories) == kind
    return bool(known and not dtype.ordered and values.array.codes.min(initial=0) >= 0)


def _cast(values: "pd.Series[Any]", kind: str | tuple[str, ...]) -> "pd.Series[Any]":
    if kind == "float64":
        return values.astype("float64")
    if values.isna().any():
        raise ValueError("a value is missing")
    if kind == "int64":
        whole = values.astype("int64")
        if not np.array_equal(whole, values.to_numpy(dtype=np.float64)):
            raise ValueError("a value is not whole")
        return whole
    if values.dtype != "category" or values.cat.categories.dtype != "str":
        values = values.astype("str").astype("category")
    words = values.cat.categories if isinstance(kind, str) else pd.Index(kind, dtype="str")
    cast = values.cat.set_categories(words, ordered=False)
    if (unknown := cast.isna()).any():
        raise ValueError(f"{values[unknown].iloc[0]!r} is none")
    return cast
