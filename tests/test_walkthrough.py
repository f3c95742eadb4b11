"""The course itself: every notebook runs as it is, and is made as the course's rules say."""

import json
import re

import nbformat
import pytest

from helpers import budget, notebooks, stack
from helpers.notebooks import discover

COURSE = ["00_start_here", "01_sqs_limits_concurrency", "02_distributed_map"]
COURSE += ["03_task_token_callbacks", "04_putting_it_together", "05_benchmark_concurrency"]
COURSE += ["06_predict_at_scale", "07_failure_drills", "08_which_pattern_when"]
LONGEST_CELL = 30


def test_the_course_is_whole():
    """The notebooks are those of the course, in order."""
    assert [path.stem for path in discover()] == COURSE


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("path", discover(), ids=lambda path: path.stem)
def test_it_runs(path, engine, tmp_path, monkeypatch):
    """At scale quick, on the embedded engine, no cell fails, figures and readings come out, nothing stays.

    On AWS it would cost no more than it says, and something, as it runs something."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", engine.endpoint_url)
    monkeypatch.setenv(budget.LEDGER, str(tmp_path / budget.FILE))
    [result] = notebooks.run([path], tmp_path, {"engine": "embedded", "scale": "quick"}, progress=False)
    assert (result.cell, result.error) == (None, None)
    assert result.readings
    assert result.figures or path.stem == COURSE[0]
    assert 0 < result.usd <= notebooks.usd_of(path, "quick")
    [written] = json.loads((tmp_path / "results.json").read_text())["results"]
    assert written["name"] == path.stem
    assert stack.deployed(engine) == []


@pytest.fixture(params=discover(), ids=lambda path: path.stem)
def cells(request):
    """The cells of one notebook."""
    return nbformat.read(request.param, as_version=4).cells


def sources(cells, kind: str) -> list[str]:
    return [cell.source for cell in cells if cell.cell_type == kind]


def tagged(cells, tag: str) -> list:
    return [cell for cell in cells if tag in cell.metadata.get("tags", [])]


def test_it_begins_with_one_title_goals_and_prerequisites(cells):
    """One H1, first; then numbered goals and a table of prerequisites with minutes."""
    text = sources(cells, "markdown")
    assert text[0].startswith("# ")
    assert sum(len(re.findall(r"^# ", source, re.MULTILINE)) for source in text) == 1
    assert "**Goals**" in text[1] or "## Goals" in text[1]
    assert "minutes" in "\n".join(text[:4])


def test_it_has_typed_parameters_with_their_meaning(cells):
    """Exactly one cell tagged parameters, each line typed and commented, engine and scale among them."""
    (parameters,) = tagged(cells, "parameters")
    for line in parameters.source.splitlines():
        assert re.match(r"\w+: \w+ = .+  # .+", line), line
    assert "engine: str" in parameters.source
    assert "scale: str" in parameters.source


@pytest.mark.parametrize("path", discover(), ids=lambda path: path.stem)
def test_it_says_what_it_costs_on_aws(path):
    """Its metadata give the most that it costs at either scale, and full costs no less than quick."""
    assert 0 < notebooks.usd_of(path, "quick") <= notebooks.usd_of(path, "full")


def test_it_stores_no_outputs(cells):
    """No outputs, no execution counts, and nothing that papermill left."""
    for cell in cells:
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None
        assert "papermill" not in cell.metadata


def test_it_proves_what_it_says(cells):
    """It asserts at least five times, and reads numbers back."""
    code = "\n".join(sources(cells, "code"))
    assert len(re.findall(r"^\s*assert ", code, re.MULTILINE)) >= 5
    assert "reading(" in code


def test_its_exercises_range_from_recall_to_design(cells):
    """At least three exercises, numbered from 1 on, each with its level; the first recalls, one designs."""
    text = "\n".join(sources(cells, "markdown"))
    asked = re.findall(r"^\*\*Exercise (\d+)\*\* \((recall|apply|analyse|design)\)\. ", text, re.MULTILINE)
    assert len(asked) >= 3
    assert [number for number, _ in asked] == [str(place) for place in range(1, len(asked) + 1)]
    assert len(asked) == len(re.findall(r"\*\*Exercise ", text))
    assert asked[0][1] == "recall"
    assert {"apply", "design"} <= {level for _, level in asked}


def test_its_exercises_have_solutions_that_check(cells):
    """Each exercise cell leaves the answer open and checks it; each solution is collapsed, and asserts it.

    So does the questionnaire, whose answers are graded."""
    exercises, solutions = tagged(cells, "exercise"), tagged(cells, "solution")
    assert len(exercises) == len(solutions) >= 3
    for exercise in exercises:
        assert re.search(r"^check\(.+\);$|^questionnaire\(\)$", exercise.source.splitlines()[-1])
        assert "..." in exercise.source or "questionnaire()" in exercise.source
    for solution in solutions:
        assert re.match(r"solve\(.+\)$|assert grade\(.+\)$", solution.source.splitlines()[-1])
        assert solution.metadata["jupyter"]["source_hidden"] is True


def test_its_cells_fit_a_screen(cells):
    """No code cell is longer than a screen."""
    assert [source for source in sources(cells, "code") if source.count("\n") >= LONGEST_CELL] == []


def test_it_ends_with_what_was_learnt_and_where_from(cells):
    """Summary, what's next, and AWS pages as sources."""
    end = "\n".join(sources(cells, "markdown")[-3:])
    for part in ("Summary", "What's next", "Sources", "https://docs.aws.amazon.com/"):
        assert part in end
