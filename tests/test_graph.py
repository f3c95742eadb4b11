"""helpers.graph: all of a definition is in its graph, with the numbers of what went through, and no more."""

# ruff: noqa: SIM300 -- asserts read expected == actual

import json
import re
import sys
from collections import Counter
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pygraphviz
import pytest
from colours import luminance
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from synthetic import make_trace
from typer.testing import CliRunner

from helpers import Experiment, LabError, graph, metrics, simulate, stack
from helpers.cli import app
from helpers.observe import Observation

module = sys.modules["helpers.graph"]  # the package's own name for it is the function
SVG = "{http://www.w3.org/2000/svg}"
PASS = {"Type": "Pass", "End": True}
NASTY = '<script>alert("1")</script> & \\N \\G \\ é \N{SNOWMAN} ]]> --> \x07'


def machines() -> list[tuple[str, str]]:
    """Every workflow's state machines, by the outputs that name them."""
    found = []
    for workflow in stack.workflows():
        template = stack.template(workflow)
        for output, about in template["Outputs"].items():
            resource = template["Resources"].get(about["Value"].get("Ref"), {})
            if resource.get("Type") == "AWS::StepFunctions::StateMachine":
                found.append((workflow, output))
    return found


def asl(workflow: str, output: str) -> dict:
    template = stack.template(workflow)
    name = template["Outputs"][output]["Value"]["Ref"]
    return json.loads(template["Resources"][name]["Properties"]["DefinitionString"])


def names_of(machine: dict) -> list[str]:
    """All states of a definition, from its text alone."""
    found = []
    for name, state in machine["States"].items():
        found.append(name)
        for inner in [*state.get("Branches", []), *filter(None, [state.get("ItemProcessor")])]:
            found += names_of(inner)
    return found


def ways_of(machine: dict, before: str = "start") -> list[tuple[str, str]]:
    """All transitions of a definition: (from, to), from its text alone."""
    found = [(before, machine["StartAt"])]
    for name, state in machine["States"].items():
        ends = state["Type"] == "Succeed" or state.get("End")
        targets = ["end"] * bool(ends) + [state[key] for key in ("Next", "Default") if key in state]
        targets += [rule["Next"] for key in ("Choices", "Catch") for rule in state.get(key, [])]
        found += [(name, target) for target in targets]
        for inner in [*state.get("Branches", []), *filter(None, [state.get("ItemProcessor")])]:
            found += ways_of(inner, name)
    return found


def drawn(svg: str) -> tuple[list[str], list[str], dict[str, list[str]]]:
    """What a picture shows: titles of states, titles of transitions, lines of text by title."""
    groups = [g for g in ElementTree.fromstring(svg).iter(f"{SVG}g") if g.find(f"{SVG}title") is not None]
    kinds: dict[str, list[str]] = {"node state": [], "edge transition": []}
    text = {}
    for group in groups:
        title = group.find(f"{SVG}title").text or ""
        kinds.setdefault(group.get("class", ""), []).append(title)
        text[title] = ["".join(line.itertext()) for line in group.iter(f"{SVG}text")]
    return kinds["node state"], kinds["edge transition"], text


@pytest.mark.parametrize(("workflow", "output"), machines())
def test_every_state_and_transition_of_a_workflow_is_drawn_once(workflow, output):
    """As many nodes and edges as the definition has states and transitions, of the same names."""
    definition = asl(workflow, output)
    states, transitions, _ = drawn(graph(workflow, output).svg)
    assert sorted(names_of(definition)) == sorted(states)
    expected = Counter(f"{source} → {target}" for source, target in ways_of(definition))
    assert expected == Counter(title.partition(":")[0] for title in transitions)


def lines(picture, kind: str) -> list:
    """The titles of what is of this kind in the graph's text."""
    found = re.findall(f'^"[^"]*"(?: -> "[^"]*")? \\[id="([^"]*)" class="{kind}"', picture.dot, re.MULTILINE)
    return [picture.titles[id] for id in found]


NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="→:"), min_size=1, max_size=6)


@st.composite
def definitions(draw, deep=2) -> dict:
    """Small definitions of states of every kind, Maps and Parallels within one another."""
    names = draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
    states = {}
    for name in names:
        # Maps and Parallels hold one level less than what holds them.
        kinds = ["Task", "Choice", "Pass", "Wait", "Succeed", "Fail", *["Map", "Parallel"] * (deep > 0)]
        kind = draw(st.sampled_from(kinds))
        state = states[name] = {"Type": kind}
        to = st.sampled_from(names)
        if kind == "Choice":
            rules = draw(st.lists(to, min_size=1, max_size=3))
            state["Choices"] = [{"Variable": "$.x", "IsNull": True, "Next": target} for target in rules]
            state |= draw(st.sampled_from([{}, {"Default": names[0]}]))
        elif kind not in ("Succeed", "Fail"):
            state |= draw(st.one_of(st.just({"End": True}), st.builds(lambda target: {"Next": target}, to)))
        if kind in ("Task", "Map", "Parallel"):
            errors = st.lists(st.sampled_from(["States.ALL", "BadItem"]), min_size=1)
            catcher = st.builds(lambda names, target: {"ErrorEquals": names, "Next": target}, errors, to)
            state["Catch"] = draw(st.lists(catcher, max_size=2))
        if kind == "Task":
            state["Resource"] = draw(st.sampled_from(["arn:aws:states:::sns:publish.waitForTaskToken", "x"]))
        if kind == "Map":
            state["ItemProcessor"] = draw(definitions(deep - 1))
        if kind == "Parallel":
            state["Branches"] = draw(st.lists(definitions(deep - 1), min_size=1, max_size=2))
    return {"StartAt": names[0], "States": states}


@settings(max_examples=40, deadline=None)
@given(definitions())
def test_every_state_and_transition_of_any_definition_is_drawn_once(definition):
    """Whatever the states are called and however they are nested, and nothing but them is a state."""
    picture = graph(definition)
    states, transitions = lines(picture, "state"), lines(picture, "transition")
    assert sorted(names_of(definition)) == sorted(states)
    expected = Counter(f"{source} → {target}" for source, target in ways_of(definition))
    assert expected == Counter(title.partition(":")[0] for title in transitions)
    read = pygraphviz.AGraph(string=picture.dot)
    assert len(states) == sum(node.attr["class"] == "state" for node in read.nodes())
    assert len(transitions) == sum(edge.attr["class"] == "transition" for edge in read.edges())


def test_a_picture_is_whole_in_itself_whatever_states_are_called():
    """It is XML, with no script, no reference to anything elsewhere, a title for all who cannot see it, and
    names as they are, but for the escapes of what acts on a reader's terminal."""
    states = {
        NASTY: {"Type": "Choice", "Choices": [{"Condition": "{% $x > '<b>' %}", "Next": "b"}], "Default": "b"}
    }
    picture = graph({"StartAt": NASTY, "States": states | {"b": {"Type": "Fail", "Error": NASTY}}})
    root = ElementTree.fromstring(picture.svg)
    assert {"svg", "title", "g", "polygon", "text", "path", "ellipse"} == {
        element.tag.removeprefix(SVG) for element in root.iter()
    }
    values = [value for element in root.iter() for value in element.attrib.values()]
    assert [value for value in values if re.search("://|url|script", value)] == []
    assert [
        name for element in root.iter() for name in element.attrib if re.search("href|^on|^id$", name)
    ] == []
    assert "<!DOCTYPE" not in picture.svg
    assert ("img", picture.title) == (root.get("role"), root.get("aria-label"))
    assert picture.title == root.find(f"{SVG}title").text == "State machine: 2 states"
    shown = NASTY.replace("\x07", "\\x07")
    names, transitions, text = drawn(picture.svg)
    assert [shown, "b"] == names
    assert shown == text[shown][0]
    assert f"{shown} → b: $x > '<b>'" in transitions
    assert f"Fail {shown}" == text["b"][1]


KINDS = {
    "Map": {"Type": "Map", "MaxConcurrency": 7, "End": True},
    "Parallel": {"Type": "Parallel", "Branches": [{"StartAt": "x", "States": {"x": PASS}}], "End": True},
    "Task": {"Type": "Task", "Resource": "x", "End": True},
    "Choice": {"Type": "Choice", "Choices": [{"Variable": "$.n", "NumericLessThan": 3, "Next": "s"}]},
    "Wait": {"Type": "Wait", "Seconds": 5, "End": True},
    "Succeed": {"Type": "Succeed"},
    "Fail": {"Type": "Fail"},
    "Pass": PASS,
}


def test_each_kind_of_state_has_a_shape_of_its_own():
    """And tells its kind in words."""
    assert len(module.SHAPES) == len(set(module.SHAPES.values()))
    assert set(KINDS) == set(module.SHAPES)
    inner = {"StartAt": "i", "States": {"i": PASS}}
    for kind, state in KINDS.items():
        one = {"s": state | {"ItemProcessor": inner} if kind == "Map" else state}
        picture = graph({"StartAt": "s", "States": one})
        assert f"shape={module.SHAPES[kind]}" in picture.dot
        [words] = re.findall(r'label=<<B>s</B><BR/>.*?POINT-SIZE="9">([^<]*)<', picture.dot)
        assert kind in words


def task(resource: str) -> dict:
    return {"Type": "Task", "Resource": resource, "End": True}


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (
            task("arn:aws:states:::sqs:sendMessage.waitForTaskToken"),
            ["sqs:sendMessage", "waits for a task token"],
        ),
        (task("arn:aws:states:::glue:startJobRun.sync"), ["glue:startJobRun", "waits for the job to end"]),
        (task("arn:aws:states:::states:startExecution.sync:2"), ["waits for the job to end"]),
        (task("arn:aws:states:::dynamodb:updateItem"), ["Task, dynamodb:updateItem"]),
        (task("arn:aws:states:::aws-sdk:s3:putObject"), ["Task, s3:putObject"]),
        (
            task("arn:aws:states:eu-west-1:123456789012:activity:cook"),
            ["activity cook", "waits for a worker"],
        ),
        (task("arn:aws:lambda:eu-west-1:123456789012:function:f:1"), ["Task, f:1"]),
        (task("x") | {"Retry": [{"ErrorEquals": ["A", "B"]}]}, ["again after A, B, 3 times"]),
        (task("x") | {"Retry": [{"ErrorEquals": ["A"], "MaxAttempts": 9999}]}, ["after A, 9,999 times"]),
        (task("x") | {"Retry": [{"ErrorEquals": ["A" * 50, "B"]}]}, [f"after {'A' * 50}, …, 3 times"]),
        ({"Type": "Wait", "SecondsPath": "$.s", "End": True}, ["Wait s s"]),
        (
            {"Type": "Wait", "Timestamp": "2026-01-01T00:00:00Z", "End": True},
            ["Wait until 2026-01-01T00:00:00Z"],
        ),
    ],
    ids=str,
)
def test_a_state_says_what_it_does_and_waits_for(state, expected):
    """In the words of its integration."""
    dot = graph({"StartAt": "s", "States": {"s": state}}).dot
    assert [words for words in expected if words not in dot] == []


def test_what_is_not_tried_again_is_not_said_to_be():
    """A Retry with MaxAttempts 0 only names what none of those after it shall match."""
    never = {"Retry": [{"ErrorEquals": ["BadItem"], "MaxAttempts": 0}]}
    assert "BadItem" not in graph({"StartAt": "s", "States": {"s": task("x") | never}}).dot


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, ["Inline Map", "at most 40 at once, AWS&#x27;s own limit", "rounded,dashed"]),
        ({"mode": "DISTRIBUTED"}, ["Distributed Map, Standard children", "at most 10,000 at once, AWS"]),
        ({"mode": "DISTRIBUTED", "MaxConcurrency": 9}, ["at most 9 at once"]),
        ({"MaxConcurrencyPath": "$.limits.n"}, ["at most limits.n at once"]),
        ({"MaxConcurrency": "{% $n %}"}, ["at most $n at once"]),
        ({"ItemBatcher": {"MaxItemsPerBatch": 5}}, ["in batches of 5 items", "each batch"]),
    ],
    ids=str,
)
def test_a_map_is_framed_and_says_its_limit(more, expected):
    """MaxConcurrency where it is given, else what AWS allows, and the mode."""
    config = {"ProcessorConfig": {"Mode": more.pop("mode")}} if "mode" in more else {}
    inner = {"StartAt": "i", "States": {"i": PASS}} | config
    dot = graph(
        {"StartAt": "m", "States": {"m": {"Type": "Map", "End": True, "ItemProcessor": inner} | more}}
    ).dot
    assert [words for words in ['subgraph "cluster_', *expected] if words not in dot] == []


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({"Variable": "$.a", "StringEquals": "x"}, 'a = "x"'),
        ({"Variable": "$.a", "NumericLessThanEqualsPath": "$.b"}, "a ≤ b"),
        ({"Variable": "$.a", "TimestampGreaterThan": "2026"}, 'a > "2026"'),
        ({"Variable": "$.a", "StringMatches": "x*"}, 'a matches "x*"'),
        ({"Variable": "$.a", "BooleanEquals": True}, "a = true"),
        ({"Variable": "$.a", "IsPresent": True}, "a is present"),
        ({"Variable": "$.a", "IsPresent": False}, "a is not present"),
        ({"Not": {"Variable": "$.a", "IsNull": True}}, "not (a is null)"),
        (
            {
                "And": [
                    {"Variable": "$.a", "NumericGreaterThanEquals": 1},
                    {
                        "Or": [
                            {"Variable": "$.b", "NumericEquals": 2},
                            {"Variable": "$.c", "NumericLessThan": 3},
                        ]
                    },
                ]
            },
            "a ≥ 1 and (b = 2 or c < 3)",
        ),
        ({"Condition": "{% $states.input.a > 1 %}"}, "$states.input.a > 1"),
    ],
    ids=str,
)
def test_a_choice_says_why_in_words(rule, expected):
    """Each rule of a Choice, in either query language."""
    states = {"c": {"Type": "Choice", "Choices": [rule | {"Next": "p"}], "Default": "p"}, "p": PASS}
    titles = graph({"StartAt": "c", "States": states}).titles.values()
    assert {f"c → p: {expected}", "c → p: otherwise"} <= set(titles)


def test_errors_are_dashed():
    """What a Catch does is dashed and has the errors' names; no other way is."""
    picture = graph("task_token")
    dashed = {picture.titles[id] for id in re.findall('id="([^"]*)" .* style=dashed', picture.dot)}
    caught = asl("task_token", "StateMachineArn")["States"]["WaitForAnswer"]["Catch"]
    assert {f"WaitForAnswer → {c['Next']}: {', '.join(c['ErrorEquals'])}" for c in caught} == dashed


def test_the_numbers_are_those_of_the_trace():
    """Of each lane: how many items entered, how many failed, the seconds that they took, and their share of
    all; the labels say the same."""
    trace = make_trace(
        Experiment(60, 9, 0.5, 2, failure_rate=0.6, max_receive_count=1, task_timeout_seconds=5, seed=3)
    )
    picture = graph("combined", coloured_by=trace)
    items = trace.items
    seconds = items["returned"] - items["arrival"]
    _, _, text = drawn(picture.svg)
    for lane, state in (("direct", "DirectLane"), ("limited", "LimitedLane")):
        own = items["lane"] == lane
        failed = int((items["outcome"][own] != "succeeded").sum())
        row = picture.numbers.loc[state]
        assert (int(own.sum()), failed) == (row["entered"], row["failed"])
        assert seconds[own].sum() == pytest.approx(row["seconds"])
        assert seconds[own].sum() / seconds.sum() == pytest.approx(row["share"])
        words = " ".join(" ".join(text[state]).split())
        assert f"{own.sum()} entered, {failed} failed " in words
        assert failed > 0
        share, spent = map(float, re.search(r"([\d.]+) % of the time, ([\d.]+) s", words).groups())
        assert (100 * row["share"], row["seconds"]) == pytest.approx((share, spent), rel=0.006)
    good = int((items["outcome"] == "succeeded").sum())
    assert [len(items), good, len(items) - good] == [
        picture.numbers.loc[state, "entered"] for state in ("ChooseLane", "Answered", "Unanswered")
    ]
    assert "coloured" in picture.title


def test_a_trace_of_maps_colours_maps():
    """Both maps of distributed_map have one state that does the work: all of the time is its own."""
    trace = simulate(Experiment(20, siphon_share=0))
    for output in ("InlineArn", "DistributedArn"):
        row = graph("distributed_map", output, trace).numbers.loc["Process"]
        assert (20, 0, 1.0) == (row["entered"], row["failed"], row["share"])
        assert metrics.summary(trace)["mean_sojourn"] * 20 == pytest.approx(row["seconds"])


def observed(rows: list[tuple]) -> Observation:
    """An observation that saw these attempts: item, state, attempt, scheduled, ended, outcome."""
    columns = ["item", "state", "attempt", "scheduled", "ended", "outcome"]
    none = pd.DataFrame()
    trace = simulate(Experiment(1))
    return Observation(
        "arn", "SUCCEEDED", "", none, trace, pd.DataFrame(rows, columns=columns), none, none, (), ()
    )


def test_the_numbers_are_those_of_the_observation():
    """An item that was tried twice entered once, and failed if its last attempt did; outside of the items
    each visit counts; the time of a state is that of all its attempts."""
    seen = observed(
        [
            (0, "a", 1, 0.0, 1.0, "failed"),
            (0, "a", 2, 2.0, 3.0, "succeeded"),
            (1, "a", 1, 0.0, 1.0, "succeeded"),
            (1, "a", 2, 1.0, 2.0, "timed_out"),
            (2, "a", 1, 0.0, np.nan, "running"),
            (-1, "b", 1, 5.0, 6.0, "succeeded"),
            (-1, "b", 1, 6.0, 7.0, "failed"),
            (-1, "b", 2, 7.0, 11.0, "succeeded"),
        ]
    )
    states = {"a": {"Type": "Task", "Resource": "x", "Next": "b"}, "b": task("y")}
    numbers = graph({"StartAt": "a", "States": states}, coloured_by=seen).numbers
    assert [3, 1, 4.0, 0.4] == numbers.loc["a"].tolist()
    assert [2, 0, 6.0, 0.6] == numbers.loc["b"].tolist()


def test_text_is_legible_on_every_colour():
    """Black on each has a contrast of 7 at least (WCAG 2.2, AAA), and more of the time is always darker."""
    shades = [luminance(to_rgb(module._colour(share))) for share in np.linspace(0, 1, 51)]
    assert min(shades) + 0.05 >= 7 * 0.05
    assert sorted(shades, reverse=True) == shades
    assert "bgcolor=white" in graph("combined").dot, "what is around it may be dark"


CHOICE = {"Type": "Choice", "Choices": [{"Variable": "$.a", "Next": "s"}]}


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        ("{", "no JSON"),
        ("[]", "not known; choose one of"),
        ("nothing", "not known; choose one of"),
        (3, "has no States"),
        ({}, "has no States"),
        ({"States": {"s": PASS}}, "StartAt: leads to None"),
        ({"StartAt": "t", "States": {"s": PASS}}, "StartAt: leads to 't'"),
        ({"StartAt": "s", "States": {"s": {"Type": "Pass", "Next": "t"}}}, "'s': leads to 't'"),
        ({"StartAt": "s", "States": {"s": {"Type": "Pass"}}}, "neither a Next nor an End"),
        ({"StartAt": "s", "States": {"s": {"Type": "Pas", "End": True}}}, "one of Task, Choice"),
        ({"StartAt": "s", "States": {"s": 3}}, "Type is None"),
        ({"StartAt": "s", "States": {"s": {"Type": ["Pass"], "End": True}}}, "as States Language has it"),
        ({"StartAt": "s", "States": {"s": task(None)}}, "names what it calls"),
        ({"StartAt": "s", "States": {"s": {"Type": "Map", "End": True}}}, "None has no States"),
        ({"StartAt": "s", "States": {"s": {"Type": "Parallel", "End": True}}}, "list of Branches"),
        ({"StartAt": "s", "States": {"s": {"Type": "Choice", "Choices": []}}}, "list of Choices"),
        ({"StartAt": "s", "States": {"s": CHOICE}}, "compares something"),
        ({"StartAt": "s", "States": {"s": PASS | {"Catch": "x"}}}, "as States Language has it"),
        ({"StartAt": "s", "States": {"s": PASS | {"Retry": [{"ErrorEquals": []}]}}}, "States Language"),
        ({"StartAt": "s", "States": {"s": PASS | {"Retry": [{}]}}}, "as States Language has it"),
    ],
    ids=str,
)
def test_what_is_no_definition_is_refused(definition, message):
    """In a sentence that names the state and the remedy."""
    with pytest.raises(LabError, match=re.escape(message)):
        graph(definition)


def test_a_definition_that_is_nested_too_deeply_is_refused():
    """In a sentence, not with Python's own error."""
    nested = {"StartAt": "s", "States": {"s": PASS}}
    for _ in range(sys.getrecursionlimit()):
        nested = {"StartAt": "m", "States": {"m": {"Type": "Map", "End": True, "ItemProcessor": nested}}}
    with pytest.raises(LabError, match="nested too deeply"):
        graph(nested)


def test_a_machine_and_a_trace_must_be_of_the_workflow():
    """Which machines there are, and which state is missing, is told."""
    with pytest.raises(LabError, match="InlineArn, DistributedArn"):
        graph("distributed_map")
    with pytest.raises(LabError, match="counter has none"):
        graph("counter")
    with pytest.raises(LabError, match="has no state 'a'"):
        graph("combined", coloured_by=observed([(0, "a", 1, 0.0, 1.0, "failed")]))
    with pytest.raises(LabError, match="has no state 'Process'"):
        graph({"StartAt": "s", "States": {"s": PASS}}, coloured_by=simulate(Experiment(1)))
    with pytest.raises(LabError, match="an Observation or a Trace"):
        graph("combined", coloured_by=3)


def test_where_graphviz_is_missing_the_error_says_what_to_install(monkeypatch):
    """On a platform for which pygraphviz has no wheel."""
    monkeypatch.setattr(module, "DRAW", "import sys; sys.modules['pygraphviz'] = None\n" + module.DRAW)
    with pytest.raises(LabError, match=r"pygraphviz.*install pygraphviz, whose wheels bring Graphviz"):
        _ = graph("sqs_limited").svg


def test_a_notebook_shows_it_and_a_file_holds_it(tmp_path):
    """As SVG and, for notebooks that are not trusted, as PNG; a file as its name's ending says."""
    picture = graph("sqs_limited")
    shown = picture._repr_mimebundle_()
    assert {"image/svg+xml", "image/png", "text/plain"} == set(shown)
    assert shown["image/svg+xml"] == picture.save(tmp_path / "a.svg").read_text()
    assert shown["image/png"] == picture.save(tmp_path / "a.png").read_bytes()
    assert shown["image/png"].startswith(b"\x89PNG")
    with pytest.raises(LabError, match="end the file's name so"):
        picture.save(tmp_path / "a.pdf")


def test_the_command_writes_the_same_picture(tmp_path):
    """`lab graph` gives what `graph` gives, coloured by a trace's file too."""
    trace = simulate(Experiment(30))
    kept = trace.save(tmp_path / "trace.parquet")
    out = tmp_path / "combined.svg"
    for more, coloured_by in (([], None), (["--coloured-by", str(kept)], trace)):
        ran = CliRunner().invoke(app, ["graph", "combined", "--out", str(out), *more])
        assert (0, f"{out}\n") == (ran.exit_code, ran.stdout)
        assert graph("combined", coloured_by=coloured_by).svg == out.read_text()
