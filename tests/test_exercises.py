"""helpers.exercises: every answer is met with a reason, and no answer breaks the lesson."""

# ruff: noqa: SIM300 -- asserts read expected == actual

import ast
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from fractions import Fraction
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from helpers import Experiment, check, cli, exponential, notebooks
from helpers.engines import local
from helpers.errors import LabError
from helpers.exercises import exercises_of, solve, telling
from helpers.exercises import questionnaire as asking
from helpers.exercises.judging import Choice, Judge, Number, Parts, Several, Wrong
from helpers.formatting import plain
from helpers.notebooks import discover

NUMBERS = [path.stem[:2] for path in discover()]
EXERCISES = {name: one for number in NUMBERS for name, one in exercises_of(number).items()}
RUN = Experiment(120, map_concurrency=24, siphon_share=0.4, worker_concurrency=8, limited_seconds=0.4, seed=4)
TIMES = pd.DataFrame(
    {"p50_sojourn": [0.31, 1.0], "p95_sojourn": [0.6, 1.5], "makespan": [0.8, 1.8]},
    index=[1, 10],
)
ITEMS = pd.DataFrame(
    {"item": [0, 1, 2, 3], "service_start": [0.0, 0, 1, 1.2], "service_end": [1.0, 1.1, 1.9, 1.8]}
).assign(returned=lambda table: table["service_end"] + 0.1)
TURNS = pd.DataFrame({"waiting": [0.1, 0.7, 1.3, 1.8]})
SPARED = pd.DataFrame(
    {
        "item": [0, 1, 2],
        "waiting": [0.1, 0.8, 1.4],
        "service": [0.61, 0.62, 0.02],
        "late": False,
        "outcome": ["answered", "answered", "lost"],
    }
)
FOUND = {(5, 0.9): (1.5, 0.1), (50, 0.9): (0.05, 0.01), (5, 0.8): (0.55, 0.1), (50, 0.8): (0.01, 0.01)}
SEES = {"a": {1, 2, 3}, "b": {3, 4}, "c": {4}, "d": {5, 6}, "e": {2, 3}}
EVIDENCE: dict[str, tuple[Any, ...]] = {
    "01.4": (25, 8.0, 0.25),
    "02.4": (ITEMS,),
    "02.5": (11,),
    "03.3": (TURNS,),
    "03.5": (0.6, "lost"),
    "04.3": (RUN,),
    "04.4": (RUN,),
    "05.4": (TIMES,),
    "06.4": (FOUND,),
    "07.3": (18_017,),
    "07.5": (10,),
    "07.6": (SEES,),
}
"""What a notebook might have measured, where the right answer depends on it."""


def choose(items: int, at_once: int, result_bytes: int) -> str:
    return "inline" if at_once <= 40 and items <= 1136 and result_bytes * items <= 131_072 else "distributed"


def problems(answer: Any, records: list[dict[str, str]]) -> list[str]:
    if not isinstance(answer, dict) or set(answer) != {"batchItemFailures"}:
        return ["the key"]
    known = {record["messageId"] for record in records}
    return [str(one) for one in answer["batchItemFailures"] if one.get("itemIdentifier") not in known]


JOB = Experiment(2_000, siphon_share=0.5, limited_seconds=1.5, map_concurrency=200, worker_concurrency=22)
BATCH = Experiment(100, siphon_share=1, limited_seconds=5, batch_size=10)
SMALL = Experiment(600, siphon_share=1, limited_seconds=0.5, worker_concurrency=15)
OPEN = Experiment(
    2_000,
    siphon_share=1,
    consumer="fleet",
    limited_seconds=exponential(2.0),
    arrivals_per_second=50,
    worker_concurrency=108,
)
DESIGNED: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "00.4": (
        [SMALL],
        {
            "5.0 s too long": replace(SMALL, worker_concurrency=12),
            "5 of them can be spared": replace(SMALL, worker_concurrency=20),
            "items is 60": replace(SMALL, items=60),
            "give an Experiment": 15,
        },
    ),
    "01.5": (
        [replace(BATCH, function_timeout_seconds=60, visibility_timeout_seconds=360)],
        {
            "10 item(s) at once": BATCH,
            "six times": replace(BATCH, function_timeout_seconds=60),
            "batch_size is 1": replace(BATCH, batch_size=1),
            "before its last message": replace(
                BATCH, function_timeout_seconds=50, visibility_timeout_seconds=300
            ),
        },
    ),
    "01.6": (
        [[5, 15, 9], (4, 9, 6), np.array([5, 15, 9])],
        {
            "falls behind": [3, 15, 9],
            "their sum": [10, 15, 9],
            "the least is 2": [1, 15, 9],
            "not a whole number": [5.5, 15, 9],
            "list of three": [5, 15],
            "plain number": [5, "15", 9],
        },
    ),
    "02.4": (
        [2, np.int64(2)],
        {
            "last of the list": 3,
            "took longest": 1,
            "missing longest": 0,
            "is no item": 4,
            "plain number": "2",
        },
    ),
    "02.5": (
        [choose],
        {
            "choose(100, 10, 300)": lambda *_: "distributed",
            "40 at once and no more": lambda *_: "inline",
            "no function": "inline",
            "events are more": lambda n, at, size: choose(min(n, 9), at, size),
            "more than half of 256 KiB": lambda n, at, _: choose(n, at, 1),
            "TypeError": lambda n: "inline",
        },
    ),
    "03.3": (
        [2],
        {
            "not the mean": 1,
            "longer than it has to be": 3,
            "not whole": 1.85,
            "4 of the 4": 0,
        },
    ),
    "03.4": (
        [{"MaxConcurrency": at_once, "HeartbeatSeconds": 30} for at_once in (110, 200, 300)],
        {
            "healthy tasks are given up": {"MaxConcurrency": 0, "HeartbeatSeconds": 30},
            "do not keep 100 workers busy": {"MaxConcurrency": 50, "HeartbeatSeconds": 30},
            "not found within 30 s": {"MaxConcurrency": 200, "HeartbeatSeconds": 60},
            "HeartbeatSeconds None": {"MaxConcurrency": 200, "HeartbeatSeconds": None},
            "are refused": {"MaxConcurrency": -1, "HeartbeatSeconds": 30},
            "give both": {"MaxConcurrency": 200},
        },
    ),
    "03.5": (
        [SPARED],
        {
            "1 of the 3 tasks": SPARED.assign(late=[False, False, True]),
            "busy for 0.7 s": SPARED.assign(service=[0.61, 0.62, 0.7]),
            "No task was given up": SPARED.assign(outcome="answered"),
            "left out": SPARED.assign(service=[0.1, 0.62, 0.02]),
            "give that table": choose,
        },
    ),
    "04.4": (
        [replace(RUN, map_concurrency=wide) for wide in (0, 120)],
        {
            "no sooner": RUN,
            "no sooner than before": replace(RUN, map_concurrency=12),
            "worker_concurrency is 16": replace(RUN, worker_concurrency=16),
        },
    ),
    "05.5": (
        [JOB, replace(JOB, map_concurrency=0)],
        {
            "s too long": replace(JOB, worker_concurrency=21),
            "fewer would do": replace(JOB, worker_concurrency=30),
            "a map of 15 children": replace(JOB, map_concurrency=15),
            "siphon_share is 0.4": replace(JOB, siphon_share=0.4),
        },
    ),
    "06.3": (
        [5],
        {
            "what 1,000 workers need": 6,
            "600 beats": 4,
            "longer than it has to be": 10,
            "not whole": 4.8,
            "inf beats": 0,
        },
    ),
    "06.5": (
        [OPEN],
        {
            "grows without end": replace(OPEN, worker_concurrency=100),
            "0.010 s too long": replace(OPEN, worker_concurrency=107),
            "108 would do": replace(OPEN, worker_concurrency=109),
            "arrivals_per_second is 5.0": replace(OPEN, arrivals_per_second=5),
        },
    ),
    "07.2": (
        [problems],
        {
            "its key is misspelt": lambda answer, records: [],
            "an empty list says": lambda answer, records: ["bad"],
            "list of sentences": lambda answer, records: "fine",
            "no function": ["misspelt"],
            "KeyError": lambda answer, records: answer["batchItemFailures"][9:] or records[0]["id"],
        },
    ),
    "07.5": (
        [5, 10, 3],
        {"2 calls are throttled": 12, "stand empty": 2, "no limit of your own": 0},
    ),
    "07.6": (
        [["a", "d", "b"], {"a", "c", "d"}],
        {
            "see 5 faults (1, 2, 3, 5, 6)": ["a", "d", "e"],
            "These are 2 alarms": ["a", "d", "a"],
            "no name in sees": ["a", "b", "z"],
            "no list of alarms": "a",
        },
    ),
}
"""Of exercises with a judge of their own: right answers, and wrong ones by a part of what they are told."""


class Hostile:
    """An object that answers nothing."""

    def _refuse(self, *_: object) -> Any:
        raise RuntimeError("\ud800")

    __repr__ = __eq__ = __float__ = __iter__ = __len__ = __getattr__ = __bool__ = _refuse
    __hash__ = None

    def __call__(self, *_: object) -> Any:
        raise SystemExit


def told(name: str, answer: Any, capsys: pytest.CaptureFixture[str]) -> tuple[bool, str]:
    """Whether it was right, and what check said, outside of a notebook."""
    right = check(name, answer, *EVIDENCE.get(name, ()))
    return right, capsys.readouterr().out


def judges(judge: Judge) -> list[Judge]:
    """The judge, or those of its parts."""
    return list(judge.judges.values()) if isinstance(judge, Parts) else [judge]


def right_of(name: str, judge: Judge) -> Any:
    """The right answer of a judge that knows it, with the notebook's evidence."""
    if isinstance(judge, Parts):
        return {part: right_of(name, own) for part, own in judge.judges.items()}
    if isinstance(judge, Number):
        return judge.right(*EVIDENCE.get(name, ())) if callable(judge.right) else judge.right
    assert isinstance(judge, Choice | Several)
    return judge.right


def called(source: str) -> list[list[str]]:
    """The arguments of each check(...) in a cell, as source text."""
    tree = ast.parse(source)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    judged = [call for call in calls if ast.unparse(call.func) in ("check", "solve")]
    return [[ast.unparse(one) for one in call.args] for call in judged]


@pytest.mark.parametrize("path", discover(), ids=lambda path: path.stem)
def test_every_exercise_is_asked_defined_and_solved(path):
    """A notebook's exercise cells, its definitions and its solutions are the same, numbered from 1 on.

    Each is given as much evidence in its own cell as in its solution, and as its judge was tested with."""
    cells = nbformat.read(path, as_version=4).cells
    found = {
        tag: [one for cell in cells if tag in cell.metadata.get("tags", []) for one in called(cell.source)]
        for tag in ("exercise", "solution")
    }
    number = path.stem[:2]
    names = [f"{number}.{place}" for place in range(1, len(exercises_of(number)) + 1)]
    assert [repr(name) for name in names] == [arguments[0] for arguments in found["exercise"]]
    assert [arguments[0] for arguments in found["exercise"]] == [one[0] for one in found["solution"]]
    assert list(exercises_of(number)) == names
    for tag in found:
        given = [len(arguments) - 2 for arguments in found[tag]]
        assert [len(EVIDENCE.get(name, ())) for name in names] == given


@pytest.mark.parametrize("name", EXERCISES)
def test_no_answer_is_met_with_where_to_look(name, capsys):
    """Three dots are no mistake: the question is told again in a line, and where the notebook has it."""
    right, said = told(name, ..., capsys)
    assert not right
    assert f"○ Exercise {name}: not answered yet. {EXERCISES[name].question}" in said
    assert said.rstrip().endswith(f"Look at {EXERCISES[name].look}.")
    if isinstance(EXERCISES[name].judge, Parts):
        some = dict.fromkeys(EXERCISES[name].judge.judges, ...)
        assert "not answered yet" in told(name, some, capsys)[1]


@pytest.mark.parametrize("name", sorted(EXERCISES.keys() - DESIGNED.keys()))
def test_right_answers_are_right_and_each_mistake_has_its_reason(name, capsys):
    """The right answer is told why; so is each typical wrong one, by its own misconception and no other's."""
    judge, evidence = EXERCISES[name].judge, EVIDENCE.get(name, ())
    right, said = told(name, right_of(name, judge), capsys)
    assert right, said
    for own in judges(judge):
        assert own(right_of(name, own), *evidence) == own.because
        assert own.because in said
        if isinstance(own, Several):
            for member, why in own.members.items():
                with pytest.raises(Wrong, match=re.escape(why)):
                    own(own.right.symmetric_difference({member}), *evidence)
            continue
        assert len(own.mistakes) >= (1 if right_of(name, own) is True else 2)
        for mistake, why in own.mistakes.items():
            answer = mistake(*evidence) if callable(mistake) else mistake
            with pytest.raises(Wrong) as wrong:
                own(answer, *evidence)
            assert why == str(wrong.value)


@pytest.mark.parametrize("name", DESIGNED)
def test_designs_are_judged_by_what_they_do(name, capsys):
    """Whatever meets the demand is right; what does not is told by how much, or what else it breaks."""
    right, wrong = DESIGNED[name]
    for answer in right:
        assert (True, "✓") == (told(name, answer, capsys)[0], "✓")
    for part, answer in wrong.items():
        passed, said = told(name, answer, capsys)
        assert not passed, said
        assert said.startswith(f"△ Exercise {name}: not yet. ")
        assert part in said


def test_every_exercise_is_tried():
    """Each has a judge that knows its right answer and mistakes, or answers to try a judge of its own."""
    known = {
        name
        for name, one in EXERCISES.items()
        if all(isinstance(judge, Number | Choice | Several) for judge in judges(one.judge))
    }
    assert sorted(EXERCISES) == sorted(known | DESIGNED.keys())
    assert known.isdisjoint(DESIGNED)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("80", "'80' is text: give a plain number of seconds"),
        (True, "True is True or False: give a plain number of seconds"),
        (None, "None is nothing"),
        ([80], "[80] is of type list"),
        (float("nan"), "nan is not finite"),
        (10**400, "not finite"),
        (80_000, "80000 would be right in milliseconds"),
        (4 / 3, "1.33333 would be right in minutes"),
        (77, "77, in seconds, is too small"),
    ],
)
def test_a_wrong_type_or_unit_is_told_kindly(answer, said):
    """What is no number, or a number of something else, is told as that; NumPy's and fractions count."""
    judge = Number(80, "seconds", "because", {})
    for equal in (80, 80.0, np.int64(80), np.float32(80), Fraction(80)):
        assert "because" == judge(equal)
    with pytest.raises(Wrong, match=re.escape(said)):
        judge(answer)
    with pytest.raises(Wrong, match="a Hostile is of type Hostile: give"):
        judge(Hostile())


def test_parts_are_all_needed():
    """What is no dictionary, or lacks a part, is told; a wrong part is told by its name."""
    judge = Parts(waiting=Number(1, "seconds", "a", {}), service=Number(2, "seconds", "b", {}))
    assert "a b" == judge({"waiting": 1, "service": 2})
    for answer, said in ((3, "of type int"), ({"waiting": 1}, "service is missing")):
        with pytest.raises(Wrong, match=said):
            judge(answer)
    with pytest.raises(Wrong, match="service: 3, in seconds, is too large"):
        judge({"waiting": 1, "service": 3})


def test_a_choice_is_one_of_those_offered():
    """Case and spaces of a text do not matter, True is not 1, and what is not offered is told so."""
    judge = Choice("queue", "because", {"Poller": "it is not", True: "nor this"})
    assert "because" == judge(" Queue ")
    with pytest.raises(Wrong, match="it is not"):
        judge("poller")
    with pytest.raises(Wrong, match="1 is none of the possible answers"):
        judge(1)


def test_an_unknown_exercise_is_an_error_of_the_notebook():
    """It names the exercise and those that there are."""
    for name in ("01.99", "99.1", "one", ""):
        with pytest.raises(LabError, match="there is none of that name"):
            check(name, 1)


LEAVES = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), st.complex_numbers(), st.text(), st.binary()),
    *(st.fractions(), st.decimals(), st.dates(), st.just(...), st.builds(Hostile), st.builds(object)),
    st.functions(like=lambda *_: 1, returns=st.integers() | st.text()),
    st.sampled_from([int, print, ValueError("x"), TIMES, ITEMS, np.array([1.0]), np.float64("nan")]),
    st.integers(5_000, 5_001).map(lambda digits: 10**digits),
    st.builds(Experiment, st.integers(1, 50), siphon_share=st.floats(0, 1)),
)
ANYTHING = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=9) | st.sampled_from(["at_least", "waiting"]), inner, max_size=3)
    ),
    max_leaves=5,
)


@settings(deadline=None, max_examples=300)
@given(name=st.sampled_from(sorted(EXERCISES)), answer=ANYTHING, evidence=st.just(None) | ANYTHING)
def test_no_answer_breaks_the_lesson(name, answer, evidence):
    """Whatever the answer is, and even the evidence: check says right or not, in a sentence, and returns."""
    given = EVIDENCE.get(name, ()) if evidence is None else (evidence,)
    assert check(name, answer, *given) in (True, False)


class Text(HTMLParser):
    """The tags and the text of a page."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


@given(state=st.sampled_from(sorted(telling.LOOKS)), answer=st.text(), folded=st.booleans())
def test_what_a_learner_writes_stays_text(state, answer, folded):
    """In the HTML no answer becomes a tag, and what acts on who reads it is an escape."""
    said = f"<script>{answer}</script> & '<b>'"
    page = Text(telling.page(state, "Exercise <i>1", said, folded))
    assert {"b", "span"} | ({"details", "summary"} if folded else {"div"}) == page.tags
    assert plain(said, keep="\n") in page.text


def test_a_solution_is_folded_and_must_be_right(capsys):
    """Who runs all cells sees no answer before a click; a wrong solution fails with what judges it."""
    assert "<details" in telling.page("right", "Exercise 00.2, solution", "why", folded=True)
    solve("00.2", 1.0)
    assert "✓ Exercise 00.2, solution: right." in capsys.readouterr().out
    with pytest.raises(AssertionError, match="as if one worker did it alone"):
        solve("00.2", 2.0)


TITLE = ("markdown", "# Two exercises", ())
PARAMETERS = ("code", 'engine: str = "embedded"  # where', ("parameters",))
IMPORTS = ("code", "from helpers import check, solve", ())
ASKED = ("code", 'answer = ...\ncheck("00.2", answer);', ("exercise",))
SOLVED = ("code", 'solve("00.2", 1)', ("solution",))
PLANTED = ("code", 'check("00.2", 2);', ("solution",))
HOSTILE = ("code", 'check("00.2", "<script>alert(1)</script>\\ud800");', ("exercise",))
ASKING = (
    "code",
    "from helpers.exercises.questionnaire import questionnaire\n\nquestionnaire()",
    ("exercise",),
)
GRADED = (
    "code",
    "from helpers.exercises.questionnaire import QUESTIONS, grade\n\nassert grade([q.right for q in "
    "QUESTIONS])",
    ("solution",),
)


def written(folder: Path, name: str, *cells: tuple[str, str, tuple[str, ...]]) -> None:
    """A notebook of these cells: kind, source, tags."""
    v4 = nbformat.v4
    make: dict[str, Callable[..., Any]] = {"markdown": v4.new_markdown_cell, "code": v4.new_code_cell}
    made = [make[kind](source, metadata={"tags": list(tags)}) for kind, source, tags in cells]
    nbformat.write(v4.new_notebook(cells=made), folder / f"{name}.ipynb")


@pytest.fixture
def run(engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str, Any]]:
    """Runs `lab run ARGUMENTS` on notebooks of the test's own: exit code, what it printed, its results."""
    monkeypatch.setattr(notebooks, "NOTEBOOKS", tmp_path)
    for variable in local.ENDPOINT_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", engine.endpoint_url)

    def lab(*arguments: str) -> tuple[int, str, Any]:
        ran = CliRunner().invoke(cli.app, ["run", *arguments, "--out", str(tmp_path / "out")])
        written = json.loads((tmp_path / "out" / "results.json").read_text())["results"]
        return ran.exit_code, ran.stdout, {one["name"]: one["exercises"] for one in written}

    return lab


def test_lab_run_tells_what_each_exercise_said(run, tmp_path):
    """Unanswered in its own cell and right in its solution: `lab run --exercises` says so, and exits 0.

    What is displayed is text, HTML without a learner's tags, and a record; a kernel at which nobody sits
    shows the questionnaire as a page, not as widgets."""
    written(tmp_path, "00_sound", TITLE, PARAMETERS, IMPORTS, HOSTILE, ASKED, SOLVED, ASKING, GRADED)
    code, printed, results = run("00", "--exercises")
    assert 0 == code, printed
    sound = {"exercise": "unanswered", "solution": "right"}
    assert {"00_sound": {"00.2": sound, "questionnaire": sound}} == results
    assert re.search(r"exercise +as it is +solution\n00\.2 +unanswered +right\n", printed)
    cells = nbformat.read(tmp_path / "out" / "00_sound.ipynb", as_version=4).cells
    shown = [output.data for cell in cells for output in cell.get("outputs", []) if "data" in output]
    assert [{"text/plain", "text/html", telling.EXERCISE}] * 5 == [set(data) for data in shown]
    assert {"div", "b", "span"} == Text(shown[0]["text/html"]).tags
    assert "&lt;script&gt;" in shown[0]["text/html"]
    assert all(question.asked in Text(shown[3]["text/html"]).text for question in asking.QUESTIONS)


def test_lab_run_fails_for_a_solution_that_is_wrong(run, tmp_path):
    """With --exercises a solution that its check calls wrong, or that calls none, makes it exit 1.

    What is checked in a cell and was not reached is told, too: it said nothing."""
    silent = ("code", "answer = 1", ("solution",))
    asked_too = ("code", 'check("00.3", ...);', ("exercise",))
    passed_by = ("code", 'if engine == "aws":\n    check("00.4", ...)', ("exercise",))
    written(tmp_path, "00_planted", TITLE, PARAMETERS, IMPORTS, ASKED, PLANTED, asked_too, silent, passed_by)
    code, printed, results = run("00", "--exercises")
    assert 1 == code
    assert "ok " in printed
    said = dict(line.split(maxsplit=1) for line in printed.splitlines() if line.startswith("00."))
    assert {"00.2", "00.3", "00.4"} == set(said)
    assert re.fullmatch(r"unanswered +wrong", said["00.2"])
    assert re.fullmatch(r"unanswered +said nothing", said["00.3"])
    assert re.fullmatch(r"said nothing +said nothing", said["00.4"])
    assert {"exercise": "unanswered", "solution": "wrong"} == results["00_planted"]["00.2"]


def result(exercises: Mapping[str, Mapping[str, str | None]]) -> notebooks.Result:
    """A notebook that ran, with what its exercises said."""
    ran = {"name": "n", "path": Path("n"), "seconds": 1.0, "ok": True, "cell": None, "error": None}
    return notebooks.Result(**ran, readings={}, figures=0, usd=0.0, exercises=dict(exercises))


@pytest.mark.parametrize(
    ("own", "solution", "solved"),
    [
        ("unanswered", "right", True),
        ("right", "right", True),  # a learner's copy
        ("wrong", "right", False),
        (None, "right", False),
        ("unanswered", "wrong", False),
        ("unanswered", "unanswered", False),
        ("unanswered", None, False),
    ],
)
def test_what_counts_as_solved(own, solution, solved):
    """An exercise may be unanswered or right, its solution must be right, and both must have spoken."""
    assert solved is result({"01.1": {"exercise": own, "solution": solution}}).solved


# --- The questionnaire ---------------------------------------------------------------------------------


def test_the_course_ends_with_the_questionnaire():
    """It is the last thing that the last notebook asks; its solution grades an answer to each question."""
    cells = nbformat.read(discover()[-1], as_version=4).cells
    asked, solved = (
        [cell.source for cell in cells if tag in cell.metadata.get("tags", [])][-1]
        for tag in ("exercise", "solution")
    )
    assert "questionnaire()" == asked
    assert [question.right for question in asking.QUESTIONS] == re.findall(r'"(\w)"', solved)


def test_each_question_has_four_choices_each_with_a_reason_and_a_source():
    """One is right, no two are alike, and every letter is right somewhere."""
    assert 12 <= len(asking.QUESTIONS)
    for question in asking.QUESTIONS:
        assert len(asking.LETTERS) == len(question.choices) == len({text for text, _ in question.choices})
        assert all(len(why) > 20 for _, why in question.choices)
        assert question.right in asking.LETTERS
        assert question.source.startswith(("https://", "notebook "))
    assert set(asking.LETTERS) == {question.right for question in asking.QUESTIONS}


def test_a_click_is_answered_at_once_and_counted():
    """The chosen letter's reason stands below its question, and the score counts the right ones."""
    *rows, score = asking._clickable().children
    texts, buttons, told = rows[::3], rows[1::3], rows[2::3]
    assert len(asking.QUESTIONS) == len(texts) == len(buttons) == len(told)
    assert f"0 of {len(buttons)} are right" in score.value
    first = asking.QUESTIONS[0]
    for letter, (_, why) in zip(asking.LETTERS, first.choices, strict=True):
        buttons[0].value = letter
        assert why in Text(told[0].value).text
        assert ("✓" if letter == first.right else "△") in told[0].value
        assert f"{int(letter == first.right)} of {len(buttons)} are right" in score.value
    for button, question in zip(buttons, asking.QUESTIONS, strict=True):
        button.value = question.right
    assert f"{len(buttons)} of {len(buttons)} are right" in score.value


def test_widgets_are_for_who_can_click(monkeypatch):
    """JupyterLab gets the widgets, with the page beside them for what shows none; others the page alone."""
    shown: list[dict[str, Any]] = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: shown.append(data))
    monkeypatch.delenv(telling.UNATTENDED, raising=False)
    asking.questionnaire()
    monkeypatch.setenv(telling.UNATTENDED, "1")
    asking.questionnaire()
    widget = "application/vnd.jupyter.widget-view+json"
    assert [True, False] == [widget in data for data in shown]
    assert shown[0]["text/html"] == shown[1]["text/html"]


def test_answers_are_graded_with_reasons(capsys):
    """All right is right; a wrong letter is told why, one that is none and a missing one are told so."""
    right = [question.right for question in asking.QUESTIONS]
    assert asking.grade(right)
    wrong = ["a" if right[0] != "a" else "b", *right[1:]]
    assert not asking.grade(wrong)
    assert f"1: {dict(zip(asking.LETTERS, asking.QUESTIONS[0].choices, strict=True))[wrong[0]][1]}" in (
        capsys.readouterr().out
    )
    assert not asking.grade([*right[:-1], "x"])
    assert not asking.grade(right[:-1])
    assert "one for each question" in capsys.readouterr().out


@settings(deadline=None, max_examples=50)
@given(ANYTHING)
def test_nothing_breaks_the_grading(answers):
    """Whatever is given in place of letters is graded, and not all right."""
    assert not asking.grade(answers)
