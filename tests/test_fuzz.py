"""Whatever comes in: a valid result, or a refusal in the lab's words; never another exception."""

import contextlib
import copy
import dataclasses
import decimal
import fractions
import functools
import importlib.util
import io
import json
import math
import operator
import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from botocore.exceptions import EndpointConnectionError
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from synthetic import make_trace
from test_trace import same, small_trace
from test_worker import CONTEXT, Wire, record, refusal

from helpers import checks, cli, metrics, sweep, tune
from helpers.commands import keeping
from helpers.engines import local
from helpers.errors import EngineError, InvalidExperiment, LabError, SweepError, TraceError
from helpers.experiment import _WHOLE_NUMBERS, Experiment
from helpers.predict import fitted
from helpers.simulation.quotas import Quotas, sources
from helpers.stack import INFRA
from helpers.trace import _COLUMNS, Trace

FIELDS = [field.name for field in dataclasses.fields(Experiment)]
HUGE = [10**400, -(10**400), 2**63, 2**64, math.inf, -math.inf, math.nan, 1e308, 5e-324]
BOUNDS = [
    bound + step for low, high, _ in _WHOLE_NUMBERS.values() for bound in (low, high) for step in (-1, 0, 1)
]
texts = st.text(max_size=8)
plain = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 12), st.sampled_from(BOUNDS + HUGE), st.floats(), texts
)
json_like = st.recursive(
    plain,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=6,
)
distributions = st.builds(
    lambda name, parameters: {"distribution": name, **parameters},
    st.sampled_from(["lognormal", "exponential", "empirical", "normal", None]),
    st.dictionaries(
        st.sampled_from(["mean", "sigma", "values"]), st.one_of(plain, st.lists(plain, max_size=3))
    ),
)
foreign = st.one_of(
    st.sampled_from([pd.NA, pd.NaT, decimal.Decimal("NaN"), fractions.Fraction(10**400), 1j, b"1", object]),
    st.sampled_from([np.float64("nan"), np.int8(3), np.bool_(True), np.array([1, 2]), np.array("lambda")]),
    st.builds(list, st.lists(st.integers(), max_size=2)),
)


def shown(value) -> str:
    """How a refusal shows a value that is short enough to be shown."""
    with contextlib.suppress(ValueError):  # an integer of too many digits
        if len(text := repr(value)) <= 60:
            return text
    return ""


def tried(error, make):
    """What is made, and the message with which it was refused: one of the two is None."""
    try:
        return make(), None
    except error as refused:
        return None, str(refused)


def experiment_of(make, values) -> Experiment | None:
    """The experiment of these values, held to the laws of one; None if it is refused by field and value."""
    made, refused = tried(InvalidExperiment, make)
    if refused is not None:
        name, equals, _ = refused.partition("=")
        assert equals or re.search("is no setting|is no distribution|items is missing", refused)
        if equals and name in FIELDS:
            value = values.get(name, getattr(Experiment(1), name))
            assert isinstance(value, np.generic) or shown(value) in refused
        assert len(refused) < 2000
        return None
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.items = 1
    again = Experiment.from_dict(json.loads(json.dumps(made.to_dict(), allow_nan=False)))
    assert made == again
    assert hash(made) == hash(again)
    return made


# --- Experiments


@settings(max_examples=100)
@given(st.dictionaries(st.sampled_from(FIELDS), st.one_of(plain, foreign), max_size=4))
@example({"direct_seconds": 10**400})
@example({"consumer": pd.NA})
def test_an_experiment_is_valid_or_refused_by_field_and_value(values):
    """At, above and below every bound, NaN, infinities, truth values, texts and what is no JSON at all.

    What is accepted is frozen and survives JSON exactly.
    """
    experiment_of(lambda: Experiment(**({"items": 10} | values)), {"items": 10} | values)


@settings(max_examples=100)
@given(
    st.one_of(
        st.dictionaries(
            st.one_of(st.sampled_from(FIELDS), texts, st.integers()), st.one_of(json_like, distributions)
        ),
        json_like,
    )
)
@example(["items"])
@example({"items": 1, "limited_seconds": {"distribution": "lognormal", "mean": 1e308, "sigma": 10}})
def test_any_json_is_an_experiment_or_refused(values):
    """from_dict takes what to_dict gives and refuses the rest, whatever its shape."""
    made = experiment_of(lambda: Experiment.from_dict(values), values if isinstance(values, dict) else {})
    if made and made.items <= 100:
        assert np.isfinite(made.plan()["task_seconds"]).all()


@pytest.mark.parametrize("name", FIELDS)
def test_a_number_of_too_many_digits_to_print_is_refused(name):
    """Python refuses to print such an integer; the message names its field all the same."""
    with pytest.raises(InvalidExperiment, match=f"^{name}="):
        Experiment(**({"items": 10} | {name: 10**5000}))


# --- Traces

WHOLE = small_trace()
SMALL = st.builds(
    Experiment,
    items=st.integers(1, 5),
    map_concurrency=st.integers(0, 3),
    worker_concurrency=st.integers(1, 3),
    consumer=st.just("fleet"),
    siphon_share=st.sampled_from([0.0, 0.5, 1.0]),
    failure_rate=st.sampled_from([0.0, 0.5]),
    batch_size=st.integers(1, 3),
)
times = st.one_of(
    st.sampled_from([0.0, 1.0, 2.0, math.nan, math.inf, -math.inf]), st.floats(allow_nan=True, width=64)
)
VALUES = {
    "float64": times,
    "int64": st.one_of(st.integers(-1, 6), st.integers(-(2**63), 2**63 - 1)),
    "text": texts,
}


def table_of(name: str, rows: int = 6):
    """Any rows of this table of a trace."""
    columns = {
        column: VALUES[kind] if isinstance(kind, str) else st.sampled_from(kind)
        for column, kind in _COLUMNS[name].items()
    }
    made = st.lists(st.fixed_dictionaries(columns), max_size=rows)
    return made.map(lambda found: pd.DataFrame(found, columns=list(columns)))


@st.composite
def damaged(draw):
    """A lawful trace but for some values, and some rows that are gone, doubled or in another order."""
    trace = make_trace(draw(SMALL), samples=draw(st.sampled_from([0, 25])))
    name = draw(st.sampled_from(["items", "attempts", "samples"]))
    frame = getattr(trace, name).copy()
    for _ in range(draw(st.integers(0, 4)) if len(frame) else 0):
        row, column = draw(st.integers(0, len(frame) - 1)), draw(st.sampled_from(list(frame)))
        kind = _COLUMNS[name][column]
        value = draw(VALUES[kind] if isinstance(kind, str) else st.sampled_from(kind))
        if column == "worker":
            frame[column] = frame[column].astype(object)
        frame.loc[row, column] = value
    if len(frame):
        frame = frame.iloc[draw(st.lists(st.integers(0, len(frame) - 1), max_size=9))]
    return dataclasses.replace(trace, **{name: frame})


def trace_of(experiment, items, attempts, samples, rows, clock_seconds=0.0) -> Trace:
    started = "2026-11-24T12:00:00+00:00"
    return Trace(experiment, "any", items, attempts, samples, started, {"any": "1"}, clock_seconds, rows)


any_traces = st.builds(
    trace_of,
    *(SMALL, table_of("items"), table_of("attempts"), table_of("samples", 25), table_of("metrics", 2)),
    st.sampled_from([0.0, 0.001, 10.0]),
)
traces = st.one_of(any_traces, damaged())


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(traces)
def test_any_trace_is_read_back_exactly(tmp_path, trace):
    """Lawful or not, whatever its texts, missing and infinite times, and however few its rows."""
    same(trace, Trace.load(trace.save(tmp_path / "trace.parquet")))


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(traces)
def test_any_trace_keeps_the_laws_or_breaks_one(trace):
    """checks.verify says which law, and of what; nothing else ever comes out of it."""
    with np.errstate(all="ignore"), contextlib.suppress(checks.LawBroken):
        assert checks.verify(trace) is None


@settings(max_examples=75, suppress_health_check=[HealthCheck.too_slow])
@given(traces)
def test_any_trace_has_a_summary(trace):
    """One item, none, no attempts, all failed, times that never came: numbers that JSON holds."""
    with np.errstate(all="ignore"), contextlib.suppress(TraceError):
        json.dumps(metrics.summary(trace), allow_nan=False)
    with np.errstate(all="ignore"), contextlib.suppress(LabError):
        sweep.read(trace)
    with np.errstate(all="ignore"), contextlib.suppress(LabError):
        fitted(Experiment(3), trace)


cells = st.one_of(
    plain, st.sampled_from([10**400, b"x", object, (1, 2), pd.NaT, pd.NA, 1j, "\ud800"]), st.just([1])
)


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(st.data(), st.sampled_from(list(_COLUMNS)))
def test_any_table_is_a_trace_or_refused(data, name):
    """Of other columns, some twice, of other dtypes and values, or no table at all: TraceError names it."""
    trace = WHOLE
    frame = getattr(trace, name).astype(object)
    wanted = list(frame)
    columns = data.draw(
        st.lists(st.sampled_from([*wanted, "other", 0]), max_size=12).map(lambda c: [*wanted, *c])
    )
    columns = data.draw(st.sampled_from([wanted, wanted, columns, columns[2:]]))
    rows = data.draw(st.integers(0, 2))
    values = {at: data.draw(st.lists(cells, min_size=rows, max_size=rows)) for at in range(len(columns))}
    made = pd.DataFrame({at: pd.Series(of, dtype=object) for at, of in values.items()})
    if data.draw(st.booleans()) and len(frame) >= rows:  # most columns as they should be
        kept = data.draw(st.integers(0, len(columns)))
        for at, column in enumerate(columns):
            if at != kept and column in wanted:
                made[at] = frame[column].iloc[:rows].to_numpy(object)
    made.columns = columns
    with contextlib.suppress(TraceError):
        made_of = dataclasses.replace(trace, **{name: made})
        assert list(_COLUMNS[name]) == list(getattr(made_of, name))


@pytest.mark.parametrize("name", list(_COLUMNS))
@pytest.mark.parametrize("table", [None, 1, "items", [], {}, pd.Series([1.0]), np.zeros((2, 2))])
def test_what_is_no_table_is_refused(name, table):
    """A trace is made of DataFrames."""
    with pytest.raises(TraceError, match=f"^{name}"):
        dataclasses.replace(WHOLE, **{name: table})


@given(st.sampled_from(["started", "clock_seconds", "engine", "versions", "experiment"]), json_like)
def test_what_is_no_table_of_a_trace_is_checked_too(name, value):
    """The rest of a trace is what it should be, or is refused by name."""
    trace, refused = tried(TraceError, lambda: dataclasses.replace(WHOLE, **{name: value}))
    if trace is None:
        assert refused.startswith(f"{name}=")
    else:
        json.dumps([trace.clock_seconds, trace.engine, trace.versions], allow_nan=False)


# --- Files


@functools.cache
def file_of(sealed: bool) -> bytes:
    """The file of WHOLE, with its checksum or, as another program would write it, without."""
    with tempfile.TemporaryDirectory() as folder:
        path = WHOLE.save(Path(folder, "trace.parquet"))
        if not sealed:
            pd.read_parquet(path).to_parquet(path)
        return path.read_bytes()


def loaded(path: Path) -> Trace | None:
    """The trace in the file; None where it is refused, by the file's name."""
    trace, refused = tried(TraceError, lambda: Trace.load(path))
    assert trace is not None or refused.startswith(f"{path}: ")
    return trace


@settings(max_examples=75, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_file_is_refused_or_read_as_it_was(tmp_path, data):
    """Bytes changed, cut out, put in, doubled or zeroed, in pages, footer and magic: never another trace."""
    path, whole = tmp_path / "trace.parquet", file_of(sealed=True)
    at = data.draw(st.one_of(st.integers(0, len(whole) - 1), st.integers(len(whole) - 9000, len(whole) - 1)))
    length = data.draw(st.integers(1, 40))
    part = whole[at : at + length]
    other = data.draw(
        st.sampled_from([b"", part * 2, part[::-1], bytes(len(part)), bytes([part[0] ^ 1]) + part[1:]])
        | st.binary(min_size=1, max_size=8)
    )
    path.write_bytes(whole[:at] + other + whole[at + length :])
    if (trace := loaded(path)) is not None:
        same(WHOLE, trace)


@pytest.mark.parametrize("told", ['"items": 40', '"seed": 0', '"clock_seconds": 0.0', "2026-11-24T12:00:00"])
def test_a_changed_digit_in_what_is_not_a_table_is_found(tmp_path, told):
    """Parquet has no checksum of its footer, where experiment, versions and clock are told; the lab has."""
    path, whole = tmp_path / "trace.parquet", file_of(sealed=True)
    assert told.encode() in whole
    path.write_bytes(whole.replace(told.encode(), (told[:-1] + "7").encode()))
    assert loaded(path) is None
    path.write_bytes(file_of(sealed=False).replace(told.encode(), (told[:-1] + "7").encode()))
    assert loaded(path) is not None


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_damaged_file_without_a_checksum_is_refused_or_a_trace(tmp_path, data):
    """Such as older releases wrote, or other programs: what comes out is a trace, or TraceError."""
    path, whole = tmp_path / "trace.parquet", file_of(sealed=False)
    footer = int.from_bytes(whole[-8:-4], "little")
    at = data.draw(st.integers(len(whole) - 8 - footer, len(whole) - 1) | st.integers(0, len(whole) - 1))
    mask = data.draw(st.integers(1, 255))
    path.write_bytes(whole[:at] + bytes([whole[at] ^ mask]) + whole[at + 1 :])
    loaded(path)


def rewritten(path: Path, key: bytes, value: bytes) -> None:
    """Put this in the file's metadata."""
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, key: value}), path)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_other_metadata_are_refused_or_make_another_trace(tmp_path, data):
    """Any JSON in the place of what is not a table, or of a part of it, and what is no JSON at all."""
    path = tmp_path / "trace.parquet"
    path.write_bytes(file_of(sealed=False))
    about = pd.read_parquet(path).attrs
    part = data.draw(st.sampled_from([*about, "other"]))
    value = data.draw(json_like)
    texts = [json.dumps(value), json.dumps(about | {part: value}), "", "{", "\ud800", json.dumps(about)[:50]]
    texts.append(json.dumps({key: told for key, told in about.items() if key != part}))
    key = data.draw(st.sampled_from([b"PANDAS_ATTRS", b"pandas"]))
    rewritten(path, key, data.draw(st.sampled_from(texts)).encode(errors="surrogatepass"))
    loaded(path)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_other_columns_are_refused(tmp_path, data):
    """A file of another schema is no trace, though it says that it is one."""
    path = tmp_path / "trace.parquet"
    path.write_bytes(file_of(sealed=False))
    frame = pd.read_parquet(path)
    column = data.draw(st.sampled_from(list(frame)))
    rows = len(frame)
    other = data.draw(
        st.sampled_from(
            [
                pd.Series(["x"] * rows),
                pd.Series([b"\xff"] * rows),
                pd.Series([{"a": [1]}] * rows),
                pd.Series([None] * rows),
                pd.Series(pd.Timestamp("2026-01-01"), index=range(rows)),
                pd.Series([decimal.Decimal(2**62) * 4] * rows),
                pd.Series(np.arange(rows, dtype="uint64") + np.uint64(2**63)),
                pd.Series([2**60 + 1] * rows),
                pd.Series([True] * rows),
                pd.Series(pd.Categorical([1.5] * rows)),
            ]
        )
    )
    changed = (
        frame.assign(**{column: other.to_numpy()})
        if data.draw(st.booleans())
        else frame.rename(columns={column: "x"})
    )
    changed.attrs = frame.attrs
    changed.to_parquet(path)
    loaded(path)


# --- Grids

lists = st.one_of(st.lists(plain, max_size=3), plain)
grids = st.one_of(
    st.dictionaries(st.sampled_from(FIELDS), lists, max_size=4).map(lambda found: {"items": [3], **found}),
    st.lists(
        st.dictionaries(st.sampled_from(FIELDS), plain, max_size=3).map(lambda f: {"items": 3, **f}),
        max_size=3,
    ),
    json_like,
    st.dictionaries(st.one_of(st.integers(), st.none(), texts), lists, max_size=2),
)


def settings_of(given_text) -> None:
    """The settings that the command line would make of this: valid ones, or a refusal."""
    with contextlib.suppress(LabError):
        made = sweep.Sweep(cli._settings(given_text), 1)
        assert made.settings
        for setting in made.settings:
            assert setting == Experiment.from_dict(json.loads(json.dumps(setting.to_dict())))


@settings(max_examples=100)
@given(grids)
def test_any_grid_is_settings_or_refused(values):
    """As YAML and as JSON: every combination is a valid Experiment, or the grid is refused."""
    settings_of(yaml.safe_dump(values, allow_unicode=True).encode(errors="surrogatepass"))
    settings_of(json.dumps(values).encode())


@settings(max_examples=75)
@given(st.one_of(texts, st.text(st.sampled_from(" \n-:[]{}&*!|>'\"#%@,?0123.exitm"), max_size=30)))
@example("items: 2026-99-99")
@example("items: [0x, 08, 1e400, .inf, -.inf, .nan, 0o7, 1:2:3]")
@example("items: &a [*a]")
@example("? [1]\n: 2")
@example("items: !!python/object/apply:os.system [ls]")
@example("items: !!timestamp x")
@example("[" * 2000)
@example("items: " + "9" * 5000)
def test_any_text_is_a_grid_or_refused(text):
    """YAML that is none, tags that would run code, dates that are none: refused; nothing is executed."""
    settings_of(text.encode(errors="surrogatepass"))
    settings_of({"items": text})


@settings(max_examples=100)
@given(st.dictionaries(st.sampled_from([*FIELDS, "colour"]), texts, max_size=3))
@example({"items": "2026-99-99"})
def test_any_assignment_is_settings_or_refused(values):
    """--set FIELD=TEXT, whatever the text."""
    settings_of({"items": "3", **values})


@settings(max_examples=100)
@given(st.one_of(texts, st.text(st.sampled_from("p95_sojournusd<>= and.0123456789eE+-\n"), max_size=30)))
@example("p95_sojourn<1.2.3")
@example("usd<.")
@example("usd<1e999")
def test_any_limits_are_comparisons_or_refused(text):
    """--check and --under: names, signs and numbers, or SweepError."""
    with contextlib.suppress(SweepError):
        for name, sign, number in tune.bounds(text):
            assert (name in tune.NUMBERS, sign in tune.SIGNS, math.isnan(number)) == (True, True, False)


@settings(max_examples=100)
@given(st.dictionaries(st.sampled_from(list(sources())), plain, max_size=3))
def test_any_figures_are_quotas_or_refused(values):
    """As --quota and as a file of quotas give them: a valid Quotas that survives JSON, or LabError."""
    with contextlib.suppress(LabError):
        quotas = dataclasses.replace(Quotas(), **values)
        assert quotas == Quotas.from_dict(json.loads(json.dumps(quotas.to_dict(), allow_nan=False)))


@settings(max_examples=50)
@given(json_like)
def test_any_json_is_quotas_or_refused(values):
    """A file that calibrate did not write."""
    with contextlib.suppress(LabError):
        Quotas.from_dict(values)


# --- The command line

BAD_TEXTS = [
    "",
    " ",
    "-",
    "--",
    "=",
    "a=",
    "=b",
    "\n",
    "x\ny",
    "\udcff",
    "²",
    "٣",
    "é" * 300,
    "../../etc/passwd",
]
BAD_TEXTS += [
    "/nowhere/at/all",
    "9" * 400,
    "-1",
    "1e400",
    "nan",
    "inf",
    "None",
    "[",
    "{a: b}",
    "<script>",
    "%s%n",
    "{0}",
]
words = st.one_of(st.sampled_from(BAD_TEXTS), st.text(max_size=6))
ARN = "arn:aws:states:us-east-1:000000000000:"
OPTIONS = {
    "--set": st.one_of(
        words,
        st.builds("{}={}".format, st.sampled_from(FIELDS), words),
        st.sampled_from(["items=3", "worker_concurrency=2,4", "limited_seconds=2026-99-99", "items=5,6,7"]),
    ),
    "--under": st.sampled_from(
        ["usd<1", "usd<1.2.3", "p95_sojourn<1 and", "x<1", "usd<1 or usd>2", *BAD_TEXTS]
    ),
    "--check": st.sampled_from(["makespan<1e3", "makespan==", "usd<1and usd<2", *BAD_TEXTS]),
    "--quota": st.builds("{}={}".format, st.sampled_from([*sources(), "colour"]), words) | words,
    "--quotas": st.sampled_from(["us-east-1", "mars", "FILE", "FOLDER", *BAD_TEXTS]),
    "--grid": st.sampled_from(["FILE", "FOLDER", *BAD_TEXTS]),
    "--service-times": st.sampled_from(["FILE", "FOLDER", *BAD_TEXTS]),
    "--out": st.sampled_from(["FILE", "FOLDER", "FILE/below", *BAD_TEXTS]),
    "--objective": st.sampled_from(["usd", "makespan", *BAD_TEXTS]),
    "--items": st.sampled_from(["3", "1", "0", *BAD_TEXTS]),
    "--repetitions": st.sampled_from(["1", "0", "-1", *BAD_TEXTS]),
    "--sample": st.sampled_from(["1", "0", "-1", *BAD_TEXTS]),
    "--scale": st.sampled_from(["quick", "full", *BAD_TEXTS]),
    "-p": st.builds(
        "{}={}".format, st.sampled_from(["scale", "engine", "items", "MaximumConcurrency"]), words
    )
    | words,
    "--engine": st.sampled_from(["embedded", "aws", "localstack", "endpoint", "simulated", *BAD_TEXTS]),
    "--endpoint": st.sampled_from(["http://127.0.0.1:9", "https://x", "http://", "http://[", *BAD_TEXTS]),
    "--profile": words,
    "--region": words,
    "--budget": st.sampled_from(["0", "1", "-1", *BAD_TEXTS]),
    "--port": st.sampled_from(["0", "80", "65536", *BAD_TEXTS]),
}
FLAGS = ["--json", "--resume", "--yes", "--all", "--docker", "--help", "--nonsense"]
COMMANDS = {
    "run": ["--out", "--scale", "-p", "--engine", "--endpoint", "--budget", "--profile", "--region"],
    "sweep": ["--set", "--grid", "--repetitions", "--out", "--check", "--under", "--objective", "--engine"],
    "observe": ["--sample", "--out", "--engine", "--endpoint"],
    "predict": ["--items", "--set", "--quotas", "--quota", "--service-times", "--repetitions", "--out"],
    "tune": [
        "--items",
        "--objective",
        "--set",
        "--under",
        "--quotas",
        "--quota",
        "--service-times",
        "--repetitions",
    ],
    "calibrate": ["--out", "--engine"],
    "deploy": ["-p", "--engine", "--endpoint"],
    "destroy": ["--engine", "--endpoint", "--region"],
    "open": ["--engine", "--endpoint"],
    "engine start": ["--port"],
    "engine stop": [],
    "engine status": [],
    "test": [],
    "doctor": [],
    "nonsense": ["--set"],
}
NEEDED = {"predict": ["--items", "3", "--repetitions", "1"], "tune": ["--items", "3", "--objective", "usd"]}
ARGUMENTS = ["00", "04", "combined", "task_token", "embedded", "localstack", *BAD_TEXTS]
ARGUMENTS += [
    f"{ARN}{rest}" for rest in ("execution:a:b", "express:a:b:c", "execution:..:../../x", "stateMachine:\n")
]


@st.composite
def commands(draw):
    name = draw(st.sampled_from(list(COMMANDS)))
    line = [*name.split(), *(NEEDED.get(name, []) if draw(st.booleans()) else [])]
    for _ in range(draw(st.integers(0, 3))):
        if COMMANDS[name]:
            option = draw(st.sampled_from(COMMANDS[name]))
            line += [option, draw(OPTIONS[option])]
    line += draw(st.lists(st.sampled_from(FLAGS), max_size=1))
    return line + draw(st.lists(st.sampled_from(ARGUMENTS), max_size=2))


@pytest.fixture
def unreachable(tmp_path, monkeypatch):
    """Nothing starts, nothing is called, and what is written by default is written here."""

    def no(*_, **__):
        raise EngineError("unreachable: nothing starts here; leave it so")

    def refuse(*_, **__):
        raise OSError(111, "Connection refused")

    for name in local.ENDPOINT_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(local, "KEPT", tmp_path / "kept")
    monkeypatch.setattr(local.Server, "start", no)
    monkeypatch.setattr(keeping.localstack, "install", no)
    monkeypatch.setattr(keeping.localstack, "compose", no)
    monkeypatch.setattr(subprocess, "Popen", no)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=1))
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@settings(max_examples=75, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(line=commands())
@example(line=["deploy", "--endpoint", "\n"])
@example(line=["deploy", "task_token", "-p", "TimeoutSeconds=²"])
@example(line=["deploy", "task_token", "-p", "TimeoutSeconds=" + "9" * 5000])
@example(line=["run", "05", "-p", "repetitions=" + "-" * 20_000 + "1"])
@example(line=["run", "05", "-p", "grid=" + "(" * 5_000])
@example(line=["run", "--out", "FILE/below"])
@example(line=["sweep", "--grid", "FILE"])
@example(line=["sweep", "--grid", "x" * 300])
@example(line=["predict", "--items", "3", "--set", "limited_seconds=!!bool x"])
@example(line=["predict", "--items", "3", "--quota", "task_burst=" + "9" * 400])
@example(line=["predict", "--items", "3", "--repetitions", "1", "--out", "/proc/nowhere"])
def test_any_command_line_ends_with_a_status_and_a_sentence(unreachable, capsys, line):
    """Exit 0, 1 or 2, never a traceback; a refusal of the lab's is one line that begins with `error:`."""
    file = unreachable / "file"
    file.write_bytes(b"\xff\xfe not text")
    places_ = {"FILE": str(file), "FOLDER": str(unreachable), "FILE/below": f"{file}/below"}
    arguments = [places_.get(word, word) for word in line]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["lab", *arguments])
        patch.setattr(cli.signal, "signal", lambda *_: None)
        ended = tried(SystemExit, cli.main)[1]
    told = capsys.readouterr()
    assert ended in (None, "None", "0", "1", "2")
    assert "Traceback" not in told.out + told.err
    if ended == "2" and "Usage:" not in told.err:
        assert "\n" not in told.err.rstrip("\n").partition("error: ")[2], told.err


# --- The functions

SECRET = "AQCEAAAAplantedTOKEN"
items_of = st.one_of(
    json_like,
    st.fixed_dictionaries(
        {"item": plain},
        optional={
            "task_seconds": st.one_of(st.just(0), plain),
            "bad": st.booleans(),
            "failures": st.one_of(st.integers(0, 2), plain),
        },
    ),
)
messages = st.one_of(
    json_like,
    st.fixed_dictionaries(
        {"item": items_of},
        optional={
            "token": st.sampled_from([SECRET, SECRET, None, "", [SECRET], {"x": SECRET}]),
            "heartbeat_seconds": st.one_of(st.sampled_from([0.001, 60]), plain, st.just([1])),
        },
    ),
)
ERRORS = ["TaskTimedOut", "InvalidToken", "TaskDoesNotExist", "ThrottlingException", "InternalFailure"]
answers = st.sampled_from([{}, {}, *map(refusal, ERRORS), EndpointConnectionError(endpoint_url="x")])
ANSWERED = {"TaskTimedOut", "InvalidToken", "TaskDoesNotExist"}


@st.composite
def batches(draw):
    """A batch of records, most of them whole, each with a token of its own if it has one."""
    found = []
    for number in range(draw(st.integers(0, 4))):
        text = draw(
            st.one_of(messages.map(lambda m: json.dumps(m)), texts, st.sampled_from(["[" * 3000, "NaN"]))
        )
        one = record(number) | {"body": text.replace(SECRET, f"{SECRET}-{number}")}
        if draw(st.integers(0, 9)) == 0:
            one["attributes"] = draw(st.sampled_from([{}, {"ApproximateReceiveCount": "x"}, None]))
        if draw(st.integers(0, 9)) == 0:
            del one[draw(st.sampled_from(["body", "attributes", "eventSourceARN", "receiptHandle"]))]
        found.append(one)
    return found


FUNCTIONS = [
    *(("combined", "summarise"), ("distributed_map", "process")),
    *(("sqs_limited", "worker"), ("task_token", "dead_letters")),
]
"""What the course deploys: the workflow, and its function."""


class Loaded:
    """A function's module, loaded once, with clients on a wire, and what it did."""

    def __init__(self, workflow: str, name: str) -> None:
        path = INFRA / workflow / "functions" / name / "index.py"
        spec = importlib.util.spec_from_file_location(name, path)
        self.module = importlib.util.module_from_spec(spec)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
            spec.loader.exec_module(self.module)
        self.wire, self.finished = Wire(), []
        for attribute, service in (("step_functions", "stepfunctions"), ("sqs", "sqs")):
            if hasattr(self.module, attribute):
                setattr(self.module, attribute, self.wire.client(service))
        if hasattr(self.module, "time"):
            self.module.time = SimpleNamespace(time=time.time, sleep=asleep)
        if hasattr(self.module, "do"):
            self.do, self.module.do = self.module.do, self.doing

    def doing(self, item, attempt):
        """Note what came to an end, well or for good."""
        try:
            self.do(item, attempt)
        except self.module.BadItem:
            self.finished.append(item)
            raise
        self.finished.append(item)

    def call(self, event, answers):
        """What it answers, what it printed, and the tokens of which it has word that they are answered."""
        self.wire.sent.clear()
        self.finished.clear()
        self.wire.answers = {"GetQueueUrl": {"QueueUrl": "https://sqs/1/tasks"}, **answers}
        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
                answer = self.module.handler(event, CONTEXT)
        except Exception:
            answer = None
        heard = set()
        for name in ("SendTaskSuccess", "SendTaskFailure"):
            told = answers.get(name, {})
            if told == {} or (isinstance(told, dict) and told["Error"]["Code"] in ANSWERED):
                heard |= {params["taskToken"] for params in self.wire.of(name)}
        return answer, printed.getvalue(), heard


def asleep(seconds) -> None:
    """As time.sleep, in no time: it refuses what that refuses."""
    if not 0 <= float(operator.index(seconds) if not isinstance(seconds, float) else seconds) < 1e9:
        raise ValueError("sleep length must be non-negative")


@pytest.fixture(scope="module")
def functions():
    return {name: Loaded(workflow, name) for workflow, name in FUNCTIONS}


def held_to_the_laws(loaded: Loaded, batch, answers) -> None:
    answer, printed, heard = loaded.call({"Records": batch}, answers)
    assert SECRET not in printed
    if answer is None:  # the call as a whole has failed: all of the batch comes again
        return
    assert answer.keys() == {"batchItemFailures"}
    again = [failure.pop("itemIdentifier") for failure in answer["batchItemFailures"]]
    assert not any(answer["batchItemFailures"])
    assert len(again) == len(set(again))
    assert set(again) <= {one["messageId"] for one in batch}
    for one in batch:
        if one["messageId"] in again:
            continue
        message = json.loads(one["body"])
        if (token := message.get("token")) is not None:
            assert token in heard
        else:
            assert any(json.dumps(message["item"]) == json.dumps(item) for item in loaded.finished)


calls = st.fixed_dictionaries(
    {},
    optional={
        name: answers
        for name in (
            "SendTaskSuccess",
            "SendTaskFailure",
            "SendTaskHeartbeat",
            "ChangeMessageVisibility",
            "GetQueueUrl",
        )
    },
)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.sampled_from(["worker", "dead_letters"]), batches(), calls)
def test_no_message_is_lost_silently(functions, name, batch, calls):
    """What does not come again is done: its task was answered, or had ended, or nobody waits and it was run.

    Whatever the records hold and the calls answer. The answer is well formed, and no token is in the log.
    """
    held_to_the_laws(functions[name], batch, calls)


@pytest.mark.parametrize(
    "broken",
    [
        {"token": SECRET, "heartbeat_seconds": "soon", "item": {"item": 1, "task_seconds": 0}},
        {"token": SECRET, "heartbeat_seconds": [1], "item": {"item": 1, "task_seconds": 0}},
        {"token": [SECRET], "heartbeat_seconds": 1, "item": {"item": 1, "task_seconds": 0}},
        {"token": {"x": SECRET}, "item": {"item": 1, "task_seconds": 0}},
        {"token": SECRET, "heartbeat_seconds": -1, "item": []},
        {"token": SECRET, "heartbeat_seconds": math.inf, "item": None},
    ],
)
def test_one_broken_message_costs_its_batch_nothing(functions, broken):
    """The others of the batch are done and answered once: it does not take them to the dead-letter queue."""
    batch = [record(0), record(1) | {"body": json.dumps(broken)}, record(2)]
    answer, printed, heard = functions["worker"].call({"Records": batch}, {})
    assert {failure["itemIdentifier"] for failure in answer["batchItemFailures"]} <= {"message-1"}
    assert {"token-0", "token-2"} <= heard
    assert SECRET not in printed


@pytest.mark.parametrize("lacks", ["attributes", "body", "eventSourceARN", "receiptHandle"])
def test_a_record_that_lacks_something_fails_alone(functions, lacks):
    """A record that is not whole comes again; those before it are not done twice for it."""
    batch = [
        record(0),
        {name: value for name, value in record(1, failures=9).items() if name != lacks},
        record(2),
    ]
    answer, _, heard = functions["worker"].call({"Records": batch}, {})
    assert answer == {"batchItemFailures": [{"itemIdentifier": "message-1"}]}
    assert heard == {"token-0", "token-2"}


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), st.sampled_from(["worker", "dead_letters", "process", "summarise"]))
def test_any_event_is_answered_well_or_fails(functions, data, name):
    """Records beside other things are served; what is no event at all is an error, never a quiet success."""
    event = data.draw(
        st.one_of(
            json_like,
            st.fixed_dictionaries(
                {},
                optional={
                    "Records": st.lists(json_like, max_size=2),
                    "warm_seconds": st.just(0) | plain,
                    "item": items_of,
                    "attempt": plain,
                    "results": st.lists(
                        json_like | st.fixed_dictionaries({"lane": plain, "error": plain}), max_size=3
                    ),
                },
            ),
        )
    )
    answer, _, _ = functions[name].call(copy.deepcopy(event), {})
    if answer is None:
        return
    if name in ("worker", "dead_letters") and "Records" in event:
        assert answer.keys() == {"batchItemFailures"}
    elif name == "summarise":
        assert answer["items"] == len(event["results"])
        assert answer["items"] == sum(sum(lane.values()) for lane in answer["lanes"].values())
    elif answer != {"worker": CONTEXT.log_stream_name}:
        assert answer["item"] == event["item"]["item"]
