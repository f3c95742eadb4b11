"""Laws of Trace: one shape whatever came in, and a file that is read back exactly or refused."""

import dataclasses
import os

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from synthetic import experiments, make_trace

from helpers.errors import FileError, TraceError
from helpers.experiment import Experiment, exponential
from helpers.trace import ATTEMPT_OUTCOMES, LANES, OUTCOMES, Trace

TABLES = ("items", "attempts", "samples", "metrics")


def small_trace() -> Trace:
    """A run with both lanes, failures, dead letters, time-outs, missing times, and CloudWatch's metrics."""
    experiment = Experiment(
        40,
        worker_concurrency=2,
        limited_seconds=exponential(0.5),
        failure_rate=0.6,
        max_receive_count=1,
        task_timeout_seconds=3,
    )
    trace = make_trace(experiment)
    assert trace.items["service_start"].isna().any()
    assert {"succeeded", "failed", "timed_out", "dead_lettered"} == set(trace.items["outcome"])
    queue = {"metric": "ApproximateNumberOfMessagesVisible", "resource": "QueueUrl", "unit": "Count"}
    rows = [{**queue, "time": -7.5, "value": 12.0}, {**queue, "time": 52.5, "value": 0.0}]
    return dataclasses.replace(trace, metrics=pd.DataFrame(rows))


def same(expected: Trace, actual: Trace) -> None:
    for field in dataclasses.fields(Trace):
        before, after = getattr(expected, field.name), getattr(actual, field.name)
        if field.name in TABLES:
            pd.testing.assert_frame_equal(before, after, check_exact=True, check_freq=True)
            assert before.attrs == after.attrs
        else:
            assert before == after


def test_columns_are_brought_to_one_dtype_and_rows_keep_their_order():
    """Whatever the caller's dtypes, index and further columns, a trace has its own."""
    trace = small_trace()
    items = trace.items.astype({"item": "float64", "lane": "category", "outcome": object, "attempts": "Int8"})
    items = items.assign(note="x")[::-1].set_index(np.arange(len(items)) + 7)
    actual = dataclasses.replace(trace, items=items)
    pd.testing.assert_frame_equal(trace.items[::-1].reset_index(drop=True), actual.items)


def test_a_trace_does_not_follow_later_changes_of_the_callers_tables():
    """A trace is a record, though it shares what it need not change."""
    items = small_trace().items.copy()
    trace = dataclasses.replace(small_trace(), items=items)
    items.loc[0, "arrival"] = 99.0
    items.loc[0, "lane"] = "limited" if items["lane"][0] == "direct" else "direct"
    same(small_trace(), trace)


def test_columns_that_have_their_dtype_are_not_copied():
    """A trace of many millions of rows costs nothing beyond its tables."""
    trace = small_trace()
    again = dataclasses.replace(trace)
    for name in TABLES:
        before, after = getattr(trace, name), getattr(again, name)
        for column in before.columns:
            one, other = (np.asarray(getattr(t[column].array, "codes", t[column])) for t in (before, after))
            assert np.shares_memory(one, other)


def test_words_are_categories_in_one_order():
    """Lanes and outcomes have all their words, in order; codes are small; workers are what there is."""
    trace = small_trace()
    for values, words in (
        (trace.items["lane"], LANES),
        (trace.items["outcome"], OUTCOMES),
        (trace.attempts["outcome"], ATTEMPT_OUTCOMES),
    ):
        assert words == tuple(values.cat.categories)
        assert values.cat.codes.dtype == np.int8
    assert set(trace.attempts["worker"]) == set(trace.attempts["worker"].cat.categories)


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("lanes", [LANES[::-1], ["middle", *LANES], LANES])
def test_other_categories_become_the_traces_own(lanes, ordered):
    """Whatever their order, and whatever others no row has; those of workers stay as they are."""
    trace = small_trace()
    lane = trace.items["lane"].cat.set_categories(lanes, ordered=ordered)
    worker = trace.attempts["worker"].cat.set_categories(["worker-1", "nobody", "direct", "worker-0"])
    attempts = trace.attempts.assign(worker=worker.cat.set_categories(worker.cat.categories, ordered=ordered))
    actual = dataclasses.replace(trace, items=trace.items.assign(lane=lane), attempts=attempts)
    pd.testing.assert_frame_equal(trace.items, actual.items)
    pd.testing.assert_series_equal(worker, actual.attempts["worker"])


@pytest.fixture(scope="module")
def small():
    """One for a test that makes hundreds of others from it."""
    return small_trace()


@given(items=st.lists(st.integers(-3, 9), max_size=8), wanted=st.lists(st.integers(-5, 12), max_size=8))
def test_items_are_found_by_their_rows(small, items, wanted):
    """The first row of each, or -1: whatever their order, what is missing and what is there twice."""
    columns = {**dict.fromkeys(small.items, 0.0), "lane": "direct", "outcome": "failed"}
    table = pd.DataFrame([columns | {"item": item} for item in items], columns=list(columns))
    trace = dataclasses.replace(small, items=table)
    expected = [items.index(item) if item in items else -1 for item in wanted]
    assert expected == trace.rows(wanted).tolist()
    in_order = dataclasses.replace(trace, items=table.assign(item=range(len(table))))
    assert [item if 0 <= item < len(table) else -1 for item in wanted] == in_order.rows(wanted).tolist()


def test_workers_may_be_numbered():
    """Their numbers become texts."""
    trace = small_trace()
    numbers = np.arange(len(trace.attempts)) % 3
    for worker in (numbers, pd.Categorical(numbers)):
        actual = dataclasses.replace(trace, attempts=trace.attempts.assign(worker=worker)).attempts["worker"]
        assert [str(number) for number in numbers] == actual.tolist()
        assert actual.cat.categories.tolist() == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("table", "column"), [(t, c) for t in TABLES for c in getattr(small_trace(), t).columns]
)
def test_a_missing_column_is_refused_by_name(table, column):
    """Every column of every table is needed."""
    trace = small_trace()
    with pytest.raises(TraceError, match=rf"{table} lacks \['{column}'\]"):
        dataclasses.replace(trace, **{table: getattr(trace, table).drop(columns=column)})


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("items", "item", np.nan),
        ("items", "attempts", 1.5),
        ("items", "lane", "middle"),
        ("items", "lane", None),
        ("items", "outcome", "lost"),
        ("items", "outcome", None),
        ("items", "returned", "soon"),
        ("attempts", "outcome", "timed_out"),
        ("attempts", "worker", None),
        ("attempts", "start", "now"),
        ("samples", "visible", np.nan),
    ],
)
def test_a_value_that_does_not_fit_its_column_is_refused(table, column, value):
    """Whole numbers are whole, words are among the known ones, only times may be missing."""
    trace = small_trace()
    frame = getattr(trace, table).astype(object)
    frame.loc[1, column] = value
    categorical = {name: "category" for name in ("lane", "outcome", "worker") if name in frame}
    for values in (frame, frame.astype(categorical)):
        with pytest.raises(TraceError, match=f"{table}.{column}"):
            dataclasses.replace(trace, **{table: values})


def test_a_row_without_a_category_is_refused():
    """Also where the column has the trace's own categories."""
    trace = small_trace()
    for table, column in (("items", "lane"), ("attempts", "outcome"), ("attempts", "worker")):
        frame = getattr(trace, table).copy()
        frame.loc[2, column] = None
        with pytest.raises(TraceError, match=rf"{table}\.{column} must be .* \(a value is missing\)"):
            dataclasses.replace(trace, **{table: frame})


@pytest.mark.parametrize("started", ["2026-11-24T12:00:00", "2026-11-24T12:00:00+01:00", "noon", None, 0])
def test_the_start_is_a_utc_time(started):
    """A time without its offset, with another one, or no time at all is refused."""
    with pytest.raises(TraceError, match="started="):
        dataclasses.replace(small_trace(), started=started)


@pytest.mark.parametrize("clock_seconds", [-0.1, np.nan, np.inf])
def test_the_clock_tolerance_is_a_time(clock_seconds):
    """Clocks disagree by a finite time that is not negative."""
    with pytest.raises(TraceError, match="clock_seconds="):
        dataclasses.replace(small_trace(), clock_seconds=clock_seconds)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(experiments)
def test_a_saved_trace_is_read_back_exactly(tmp_path, experiment):
    """load undoes save: experiment, tables with dtypes, order and missing values, and all the rest."""
    trace = make_trace(experiment)
    trace = dataclasses.replace(trace, clock_seconds=0.001, samples=trace.samples[:: experiment.items])
    path = tmp_path / "item=3" / "trace.parquet"
    assert path == trace.save(path)
    same(trace, Trace.load(path))
    same(trace, Trace.load(str(path)))


def test_a_lost_attempt_and_no_samples_are_read_back_exactly(tmp_path):
    """Also where a column is all missing or a table is empty."""
    trace = small_trace()
    attempts = trace.attempts.assign(end=np.nan, outcome="lost")
    nothing = pd.DataFrame(columns=["time", "visible", "in_flight"])
    trace = dataclasses.replace(trace, attempts=attempts, samples=nothing)
    same(trace, Trace.load(trace.save(tmp_path / "trace.parquet")))


def test_workers_are_read_back_in_their_order(tmp_path):
    """More than a byte numbers, in no order, and one that did nothing."""
    trace = make_trace(Experiment(400, siphon_share=1.0, worker_concurrency=300, limited_seconds=1.0))
    words = ["nobody", *trace.attempts["worker"].cat.categories[::-1]]
    worker = trace.attempts["worker"].cat.set_categories(words)
    assert worker.cat.codes.dtype == np.int16
    trace = dataclasses.replace(trace, attempts=trace.attempts.assign(worker=worker))
    same(trace, Trace.load(trace.save(tmp_path / "trace.parquet")))


def test_a_trace_without_attempts_is_read_back_exactly(tmp_path):
    """Nobody worked, so that there is no worker either."""
    trace = small_trace()
    for nothing in (trace.attempts[:0], pd.DataFrame(columns=trace.attempts.columns)):
        empty = dataclasses.replace(trace, items=trace.items[:0], attempts=nothing)
        same(empty, Trace.load(empty.save(tmp_path / "trace.parquet")))


def test_a_file_with_texts_is_read(tmp_path):
    """As traces were saved before their columns were categorical."""
    trace = small_trace()
    path = trace.save(tmp_path / "trace.parquet")
    frame = pd.read_parquet(path)
    texts = frame.astype({"lane": "str", "outcome": "str", "worker": "str"})
    texts.attrs = frame.attrs
    texts.to_parquet(path, index=False)
    same(trace, Trace.load(path))


def test_any_parquet_reader_finds_the_three_records(tmp_path):
    """The file is one flat table whose column `record` tells items, attempts and samples apart."""
    trace = small_trace()
    table = pq.read_table(trace.save(tmp_path / "trace.parquet")).to_pylist()
    for name in TABLES:
        rows = [row for row in table if row["record"] == name]
        expected = getattr(trace, name)
        assert len(expected) == len(rows)
        for column in expected.columns:
            values = [None if pd.isna(value) else value for value in expected[column]]
            assert values == [row[column] for row in rows]


def test_a_truncated_file_is_refused(tmp_path):
    """Cut anywhere, the file is named and refused."""
    path = small_trace().save(tmp_path / "trace.parquet")
    whole = path.read_bytes()
    for length in [*range(0, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(TraceError, match=r"trace\.parquet: cannot be read as Parquet"):
            Trace.load(path)


def test_damaged_values_are_never_read_as_other_values(tmp_path):
    """A bit flipped anywhere in the columns is found, unless it is in what reading does not need."""
    trace = small_trace()
    path = trace.save(tmp_path / "trace.parquet")
    whole = path.read_bytes()
    with pq.ParquetFile(path) as file:
        last = file.metadata.row_group(0).to_dict()["columns"][-1]
    columns_end = last["dictionary_page_offset"] + last["total_compressed_size"]
    refused = 0
    for position in range(4, columns_end, 41):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        path.write_bytes(damaged)
        try:
            same(trace, Trace.load(path))
        except TraceError:
            refused += 1
    assert refused > 0


def test_a_foreign_file_is_refused(tmp_path):
    """Parquet that is no trace, text, a folder and nothing at all are refused by name."""
    path = tmp_path / "foreign"
    with pytest.raises(TraceError, match=r"foreign: .* No such file"):
        Trace.load(path)
    pd.DataFrame({"item": [1]}).to_parquet(path)
    with pytest.raises(TraceError, match="foreign: is Parquet but no trace"):
        Trace.load(path)
    path.write_text("item,lane\n")
    with pytest.raises(TraceError, match="foreign: cannot be read as Parquet"):
        Trace.load(path)
    with pytest.raises(TraceError, match="directory"):
        Trace.load(tmp_path)


@pytest.mark.parametrize(
    ("attribute", "value", "words"),
    [
        ("format", 3, "has trace format 3, but this release reads formats 1 and 2"),
        ("experiment", {"items": 0}, "items=0"),
        ("started", "noon", "started='noon'"),
        ("extra", 1, "extra"),
    ],
)
def test_another_version_is_refused(tmp_path, attribute, value, words):
    """The message names the file and what differs."""
    path = small_trace().save(tmp_path / "trace.parquet")
    frame = pd.read_parquet(path)
    frame.attrs[attribute] = value
    frame.to_parquet(path)
    with pytest.raises(TraceError, match=r"trace\.parquet: .*" + words):
        Trace.load(path)


def test_a_file_from_before_there_were_metrics_is_read(tmp_path):
    """Format 1 had no metrics: what it holds is read as it is, and there are none."""
    trace = small_trace()
    path = trace.save(tmp_path / "trace.parquet")
    frame = pd.read_parquet(path)
    older = frame[frame["record"] != "metrics"].drop(columns=["metric", "resource", "value", "unit"])
    older.attrs = frame.attrs | {"format": 1}
    older.to_parquet(path)
    same(dataclasses.replace(trace, metrics=pd.DataFrame(columns=list(trace.metrics))), Trace.load(path))


@pytest.mark.parametrize("column", ["record", "arrival", "visible", "unit"])
def test_a_trace_file_that_lacks_a_column_is_refused(tmp_path, column):
    """The message names the file and the column."""
    path = small_trace().save(tmp_path / "trace.parquet")
    frame = pd.read_parquet(path)
    frame.drop(columns=column).to_parquet(path)
    with pytest.raises(TraceError, match=rf"trace\.parquet: does not hold a whole trace .*{column}"):
        Trace.load(path)


def test_a_failed_save_leaves_what_was_there(tmp_path, monkeypatch):
    """A file is replaced whole or not at all, and nothing half-written stays behind."""
    path = small_trace().save(tmp_path / "trace.parquet")
    before = path.read_bytes()

    def full_disk(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(FileError, match=r"trace\.parquet: could not be written \(no space left"):
        dataclasses.replace(small_trace(), engine="aws").save(path)
    assert before == path.read_bytes()
    assert [path] == list(tmp_path.iterdir())


def test_a_trace_that_is_not_there_is_not_told_as_damaged(tmp_path):
    """A file that does not exist is named as that; nobody is told to record the run again."""
    with pytest.raises(TraceError, match=r"gone\.parquet: cannot be read: No such file") as told:
        Trace.load(tmp_path / "gone.parquet")
    assert "record" not in str(told.value)
