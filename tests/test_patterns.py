"""The same work by several patterns: each keeps the limit, and the decision table is made of runs."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from helpers import checks, cli, live, metrics, stack
from helpers.engines.simulated import Simulated
from helpers.errors import InvalidExperiment, LabError
from helpers.experiment import Experiment
from helpers.patterns import batches, comparison, inline_map, registry, showing, size
from helpers.patterns.__main__ import MADE, PAGE
from helpers.patterns.registry import PATTERNS
from helpers.simulation import UNLIMITED, simulate

WORK = Experiment(13, siphon_share=1.0, limited_seconds=0.05, worker_concurrency=3)
COUNTED = ["inline_map", "distributed_map", "batches", "callback", "activity"]
"""Patterns whose state transitions are known before they run, and are on record after."""
AT_ONCE = 4


@pytest.fixture(scope="module")
def ran(engine):
    """By pattern: the trace of WORK, and what the engine was asked for, counted from its histories."""
    asked = {}
    read = live.results

    def counted(deployed, execution):
        sfn, arn = engine.client("stepfunctions"), execution["executionArn"]
        children = [
            child["executionArn"]
            for run in sfn.list_map_runs(executionArn=arn)["mapRuns"]
            for page in sfn.get_paginator("list_executions").paginate(mapRunArn=run["mapRunArn"])
            for child in page["executions"]
        ]
        events = [
            event["type"]
            for one in [arn, *children]
            for page in sfn.get_paginator("get_execution_history").paginate(executionArn=one)
            for event in page["events"]
        ]
        asked[threading.get_ident()] = {
            "transitions": sum(kind.endswith("StateEntered") for kind in events) + len(children),
            "children": len(children),
            "events": len(events),
        }
        return read(deployed, execution)

    def run(pattern):
        trace = pattern.run(engine, WORK)
        return pattern.name, (trace, asked.pop(threading.get_ident(), {}))

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(AT_ONCE) as pool:
        patch.setattr(live, "results", counted)
        yield dict(pool.map(run, PATTERNS.values()))


@pytest.mark.parametrize("name", PATTERNS)
def test_every_pattern_does_the_same_work_within_the_limit(ran, name):
    """Each item of the experiment comes back once, as planned, and never more of them are at work at once."""
    trace, _ = ran[name]
    checks.verify(trace)
    assert trace.items["item"].tolist() == list(range(WORK.items))
    assert set(trace.items["outcome"]) == {"succeeded"}
    assert set(trace.items["lane"]) == {"limited"}
    assert trace.experiment.plan().equals(WORK.plan())
    assert metrics.concurrency(trace, "limited")[1].max() <= WORK.worker_concurrency


@pytest.mark.parametrize("name", COUNTED)
def test_a_planned_transition_is_one_that_was_made(ran, name):
    """What a pattern is taken to use on AWS is what the engine's histories have."""
    _, asked = ran[name]
    assert asked["transitions"] == PATTERNS[name].usage(WORK)["transition"]


def test_a_batch_is_one_child_and_an_inline_map_has_none(ran):
    """One execution for each batch, for each item, or for all."""
    each = batches.batch(replace(WORK, limited_seconds=WORK.limited_seconds))
    expected = {"inline_map": 0, "distributed_map": WORK.items, "batches": -(-WORK.items // each)}
    assert {name: ran[name][1]["children"] for name in expected} == expected


def test_an_inline_map_ends_where_its_history_does(ran):
    """Its refusal goes by the events that an item really makes, within those of the states around the Map."""
    events = ran["inline_map"][1]["events"] - inline_map.ITEM_EVENTS * WORK.items
    assert 0 < events < 20


@given(
    st.integers(1, 20_000), st.integers(2, 1000), st.floats(0.001, 100, allow_nan=False), st.integers(1, 900)
)
def test_a_batch_leaves_work_for_all_and_fits_into_its_invocation(items, workers, seconds, timeout):
    """A batch of more than one leaves each that works at once some, and lasts half the timeout at most."""
    experiment = Experiment(
        items,
        siphon_share=1.0,
        limited_seconds=seconds,
        worker_concurrency=workers,
        function_timeout_seconds=timeout,
        visibility_timeout_seconds=6 * timeout,
    )
    size = batches.batch(experiment)
    assert 1 <= size <= batches.MOST
    assert size == 1 or (size * seconds <= timeout / 2 and items // size >= batches.ROUNDS * workers)


# Size


TEMPLATE = """\
# What this is
Parameters:
  Limit:
    Type: Number  # of workers
  Other:
    Type: String
Resources:
  # The machine
  Mine:
    Type: AWS::StepFunctions::StateMachine
    Properties:
      RoleArn: !GetAtt Role.Arn
      # Its states
      DefinitionS3Location: mine.json

      DefinitionSubstitutions:
        Limit: !Ref Limit
        Function: !GetAtt Work.Arn
  Role:
    Type: AWS::IAM::Role
  Work:
    Type: AWS::Lambda::Function
    Properties:
      Code: work
  RolePolicy:
    Type: AWS::IAM::Policy
    Properties:
      Roles: [!Ref Role]
  Yours:
    Type: AWS::StepFunctions::StateMachine
    Properties:
      RoleArn: !GetAtt Theirs.Arn
      Function: !GetAtt Work.Arn
      Other: !Ref Other
  Theirs:
    Type: AWS::IAM::Role
Outputs:
  MineArn:
    Value: !Ref Mine
"""

CODE = """\
'Why.'

import json


# how
def handler(event, context):
    'What.'
    return json
"""


def test_lines_of_code_are_those_that_a_pattern_needs(tmp_path, monkeypatch):
    """What another machine alone needs is not counted, nor are blank lines, comments and docstrings."""
    monkeypatch.setattr(stack, "INFRA", tmp_path)
    folder = tmp_path / "folder"
    (folder / "work").mkdir(parents=True)
    (folder / "template.yaml").write_text(TEMPLATE)
    (folder / "mine.json").write_text('{"Comment": "why", "StartAt": "A"}')
    (folder / "work" / "index.py").write_text(CODE)
    pattern = replace(inline_map.PATTERN, workflow="folder", machine="MineArn")
    # Limit 2, Mine 8, Role 2, Work 4, RolePolicy 4
    assert size.lines(pattern) == {"template": 20, "definition": 3, "functions": 3}


def test_of_each_pattern_all_parts_are_found():
    """Each has a template, and code that does the work; all but the counter a state machine."""
    counted = {name: size.lines(pattern) for name, pattern in PATTERNS.items()}
    assert [name for name, parts in counted.items() if not parts["template"] or not parts["functions"]] == []
    assert counted["distributed_map"]["definition"] > counted["inline_map"]["definition"] > 0


# The decision table


def pretended(name, workers=0):
    """A pattern whose runs are simulated; with more workers than it may have, if so many are given."""

    def run(engine, experiment):
        wide = replace(experiment, worker_concurrency=workers or experiment.worker_concurrency)
        return replace(simulate(wide, UNLIMITED), experiment=experiment)

    return replace(PATTERNS[name], run=run, needs=())


def compared(*patterns, repetitions=2):
    return comparison.compare(Simulated(), patterns, WORK, repetitions, faults=False, progress=False)


def test_the_table_is_made_of_runs():
    """Each pattern's row is the medians of its own runs, its prediction against that, and counted lines."""
    found = compared(pretended("callback"), pretended("batches"))
    assert found.table["pattern"].tolist() == ["callback", "batches"]
    assert found.runs["pattern"].tolist() == ["callback", "batches"] * 2
    trace = simulate(WORK, UNLIMITED)
    for row in found.table.to_dict("records"):
        own = found.runs[found.runs["pattern"] == row["pattern"]]
        assert row["makespan"] == own["makespan"].median() == trace.items["returned"].max()
        assert row["p95_result"] == np.percentile(trace.items["returned"], 95)
        assert row["throughput"] == pytest.approx(WORK.items / row["makespan"])
        assert row["efficiency"] == pytest.approx(found.ideal / row["makespan"])
        assert row["ratio"] == row["predicted"] / row["makespan"]
        assert row["usd"] == comparison.usd_of_work(PATTERNS[row["pattern"]], WORK)
        assert row["lines"] == sum(size.lines(PATTERNS[row["pattern"]]).values())
        assert (row["peak"], row["law"]) == (WORK.worker_concurrency, None)


def test_a_run_without_overheads_is_as_long_as_its_bound():
    """With nothing between tasks, and whole rounds of them, the bound is the makespan itself."""
    whole = replace(WORK, items=4 * WORK.worker_concurrency)
    once, between = comparison.overhead(simulate(whole, UNLIMITED))
    assert (once, between) == (0.0, pytest.approx(0.0, abs=1e-9))
    assert comparison.bound(PATTERNS["counter"], whole, once, between) == pytest.approx(
        metrics.ideal_makespan(whole)
    )


def test_what_is_between_tasks_is_in_the_bound():
    """A pattern that needs so long for each task, and so long before the first, is predicted with both."""
    slow = replace(UNLIMITED, map_start_seconds=0.5, receive_seconds=0.1)
    few, many = (replace(WORK, items=rounds * WORK.worker_concurrency) for rounds in (4, 40))
    predicted = comparison.bound(PATTERNS["counter"], many, *comparison.overhead(simulate(few, slow)))
    assert predicted == pytest.approx(simulate(many, slow).items["returned"].max(), rel=0.05)


def test_a_broken_limit_is_told():
    """A run with more at once than allowed has its law in the table, and its peak above the limit."""
    found = compared(pretended("callback"), pretended("counter", workers=9))
    assert found.table["law"].isna().tolist() == [True, False]
    assert "limits" in found.table["law"][1]
    assert found.table["peak"][1] > WORK.worker_concurrency


def test_a_pattern_that_the_engine_cannot_do_is_left_out():
    """It is named with what is missing; where none is left there is nothing to compare."""
    found = compared(pretended("callback"), PATTERNS["batches"])
    assert found.table["pattern"].tolist() == ["callback"]
    assert "distributed_map.item_batcher" in found.left_out["batches"]
    with pytest.raises(LabError, match="simulated"):
        compared(PATTERNS["batches"])


def test_a_comparison_is_kept_as_numbers_words_and_a_figure(tmp_path):
    """The folder holds the same table four times; every pattern has a title, and every column a text."""
    found = compared(*(pretended(name) for name in PATTERNS))
    showing.save(found, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("comparison.csv", "comparison.json", "patterns.md", "patterns.png")
    ]
    kept = json.loads((tmp_path / "comparison.json").read_text())
    assert [row["pattern"] for row in kept["patterns"]] == list(PATTERNS)
    assert Experiment.from_dict(kept["experiment"]) == WORK
    assert pd.read_csv(tmp_path / "comparison.csv")["pattern"].tolist() == list(PATTERNS)
    lines = (tmp_path / "patterns.md").read_text().splitlines()
    table = [line.split(" | ") for line in lines if line.startswith("| ")]
    assert len({len(row) for row in table}) == 1
    for pattern, row in zip(PATTERNS.values(), table[2:], strict=True):
        assert row[0] == f"| {pattern.title}"
        assert all(cell.strip(" |") for cell in row)


@pytest.mark.parametrize(("workers", "status"), [(0, 0), (9, 1)])
def test_the_command_prints_the_table_keeps_it_and_ends_with_1_if_a_law_is_broken(
    workers, status, tmp_path, monkeypatch
):
    """Words or one JSON object on standard output, the law on standard error, four files in the folder."""
    found = compared(pretended("callback"), pretended("counter", workers))
    monkeypatch.setattr(comparison, "compare", lambda *_: found)
    for shown, option in ((showing.text(found), []), (json.dumps(found.to_dict()), ["--json"])):
        out = tmp_path / str(len(option))
        ran = CliRunner().invoke(cli.app, ["compare", *option, "--engine", "simulated", "--out", str(out)])
        assert (ran.exit_code, len(list(out.iterdir()))) == (status, 4)
        assert ran.stdout.startswith(shown)
        assert ("limits" in ran.stderr) is (status == 1)


def test_the_page_has_the_table_that_the_command_makes():
    """docs/patterns.md has a row for each pattern, with the columns that a comparison has."""
    made = MADE.search(PAGE.read_text()).group().splitlines()
    heads, _, *lines = [line.strip("| ").split(" | ") for line in made if line.startswith("| ")]
    found = compared(*(pretended(name) for name in PATTERNS))
    assert set(showing.rows(found)[0]) <= set(heads)
    assert [line[0] for line in lines] == [pattern.title for pattern in PATTERNS.values()]
    assert (PAGE.parent / "figures" / "patterns.png").is_file()


# Faults


def test_only_what_runs_in_the_block_is_broken():
    """Items are spoilt for the thread that says so, until the block ends."""
    with live.spoilt({2: {"failures": 99}}):
        here = live.payloads(WORK)
        with ThreadPoolExecutor(1) as pool:
            there = pool.submit(live.payloads, WORK).result()
    whole = live.payloads(WORK)
    assert there == whole
    assert [one for one in here if one not in whole] == [whole[2] | {"failures": 99}]


@given(st.data())
def test_what_is_left_is_counted_once(data):
    """A good item is back, lost or stuck; twice are those that were done to the end more than once."""
    trace = simulate(WORK, UNLIMITED)
    fates = data.draw(
        st.lists(
            st.sampled_from(["back", "gone", "failed", "timed_out", "dead_lettered"]),
            min_size=WORK.items,
            max_size=WORK.items,
        )
    )
    again = data.draw(st.sets(st.integers(0, WORK.items - 1)))
    outcome = ["succeeded" if fate in ("back", "gone") else fate for fate in fates]
    items = trace.items.assign(outcome=outcome)[[fate != "gone" for fate in fates]]
    repeated = trace.attempts[trace.attempts["item"].isin(again)].assign(attempt=2, outcome="late")
    broken = replace(trace, items=items, attempts=pd.concat([trace.attempts, repeated]))
    left = comparison.left_by(broken, may_fail={0})
    stuck = sum(fate in ("timed_out", "dead_lettered") for fate in fates)
    lost = sum(fate in ("gone", "failed") for fate in fates[1:])
    assert (left["stuck"], left["lost"], left["twice"]) == (stuck, lost, len(again))


@pytest.fixture(scope="module")
def poisoned(engine):
    """What an item that always fails leaves behind in each kind of Map."""
    maps = [PATTERNS[name] for name in ("inline_map", "distributed_map", "batches")]
    with pytest.MonkeyPatch.context() as patch:
        calm = {"function_timeout_seconds": 30, "visibility_timeout_seconds": 180}
        patch.setattr(comparison, "BROKEN", replace(comparison.BROKEN, limited_seconds=0.01, **calm))
        patch.setattr(comparison, "FAULTS", {"poison": {"bad": True}})
        yield comparison.trials(engine, maps, progress=False)


def test_a_bad_item_sinks_an_inline_map_its_batch_or_only_itself(poisoned):
    """Inline all results are lost, of a batch those of the batch, and distributed none."""
    batch = batches.batch(comparison.BROKEN)
    assert batch > 1
    lost = {name: left["poison_lost"] for name, left in poisoned.items()}
    everything = comparison.BROKEN.items - 1
    assert lost == {"inline_map": everything, "distributed_map": 0, "batches": batch - 1}


# Refusals


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["orders"], "'orders'"),
        (["callback", "callback"], "twice"),
        (["--repetitions", "0"], "repetitions=0"),
        (["--items", "0"], "items=0"),
        (["--concurrency", "1"], "worker_concurrency=1"),
        (["--task-seconds", "-1"], "limited_seconds=-1"),
        (["--items", "2273"], "items=2,273"),
        (["--engine", "azure"], "'azure'"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_made(arguments, told, tmp_path):
    """The value and the rule are named, and no folder is made."""
    ended = CliRunner().invoke(cli.app, ["compare", *arguments, "--out", str(tmp_path / "out")])
    assert isinstance(ended.exception, LabError)
    assert told in str(ended.exception)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("settings", [{"siphon_share": 0.5}, {"failure_rate": 0.1}])
def test_work_that_is_not_the_same_for_all_is_refused(settings):
    """All of it takes the limited lane, and fails only where a fault is tried."""
    [(name, value)] = settings.items()
    with pytest.raises(InvalidExperiment, match=f"{name}={value}"):
        comparison.check(replace(WORK, **settings), registry.named([]), 1)
