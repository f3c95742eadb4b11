"""Values as users write them: one spelling of numbers wherever one is given."""

import json
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from helpers import cli, notebooks
from helpers.commands import simulating
from helpers.commands.given import value_lists
from helpers.errors import LabError, NotebookError
from helpers.values import literal, loaded, scalar

SPELLINGS = [
    ("10", 10),
    ("+1", 1),
    ("-2", -2),
    ("1_000", 1000),
    ("1e3", 1000),
    ("1E+3", 1000),
    ("1.5e3", 1500),
    ("1e-1", 0.1),
    ("-1e-1", -0.1),
    (".5", 0.5),
    ("5.", 5.0),
    ("0.25", 0.25),
    ("0", 0),
    ("true", True),
    ("False", False),
    ("null", None),
    ("None", None),
]


@pytest.mark.parametrize(("text", "value"), SPELLINGS)
def test_a_value_is_read_alike_everywhere(text, value):
    """By --set, in a grid of YAML, for a quota and for a notebook's parameter: the same value of one type."""
    read = [scalar(text), literal(text), value_lists({"a": text})["a"][0], loaded(f"a: [{text}]")["a"][0]]
    assert [repr(value)] * 4 == list(map(repr, read))


@pytest.mark.parametrize("text", ["0x10", "0b1", "0o7", "010", "-007", "1:30", "1e400", "9" * 5000])
def test_a_number_that_could_be_read_as_another_is_refused(text):
    """Bases other than ten, leading zeros, minutes, and what is too large: named with what is to be given."""
    for read in (scalar, literal, loaded, lambda text: value_lists({"a": text})):
        with pytest.raises(LabError, match=text[:100].replace("+", ".")):
            read(text)


@given(st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False)))
@example(1e16)
@example(1e300)
@example(2**53 + 1)
def test_every_number_is_read_back(number):
    """As Python and JSON write it."""
    for text in (repr(number), json.dumps(number)):
        assert number == scalar(text)
    assert isinstance(scalar(repr(number)), int) or isinstance(number, float)


@given(st.text(st.sampled_from("0123456789.eE+-_xobinfa:~")))
def test_any_text_is_a_value_or_refused(text):
    """No other error, and what is no value is itself."""
    try:
        value = scalar(text)
    except LabError:
        return
    assert value == text or not isinstance(value, str)


@pytest.mark.parametrize("text", ["inf", "-inf", ".inf", "nan", ".nan", "infinity", "NaN"])
def test_no_setting_is_infinite(text, tmp_path):
    """Refused by field and value for an Experiment and for a notebook; a quota may be without limit."""
    with pytest.raises(LabError, match=r"limited_seconds=(-?inf|nan)"):
        cli._settings({"items": "3", "limited_seconds": text})
    with pytest.raises(NotebookError, match=f"seconds='{text}': seconds takes a finite value"):
        notebooks._typed("seconds", text, "0.5")
    if text in ("inf", ".inf", "infinity"):
        assert math.isinf(simulating._quotas("us-east-1", [f"task_burst={text}"]).task_burst)


def test_settings_take_every_spelling():
    """Whole numbers with an exponent are whole numbers, and seconds may be a tenth by an exponent."""
    [made] = cli._settings(
        {"items": "1e2", "limited_seconds": "1e-1", "siphon_share": ".5", "cold_start": "TRUE"}
    )
    assert (made.items, made.limited_seconds, made.siphon_share, made.cold_start) == (100, 0.1, 0.5, True)
    assert (made,) == cli._settings(b"items: 1e2\nlimited_seconds: 1e-1\nsiphon_share: .5\ncold_start: TRUE")


@pytest.mark.parametrize(
    ("text", "default", "value"),
    [
        ("1e3", "5", 1000),
        ("1e-1", "1.0", 0.1),
        ("true", "False", True),
        ("[1, 2]", "[3]", [1, 2]),
        ("1e3", "'a'", "1e3"),
    ],
)
def test_a_parameter_takes_the_same_spellings(text, default, value):
    """Of the type of its default; lists are Python's, and text stays text."""
    assert repr(value) == repr(notebooks._typed("p", text, default))


@pytest.mark.parametrize("text", ["yes", "no", "on", "Off"])
def test_a_word_of_yaml_is_text(text):
    """A flag is true or false, on the command line and in a grid's file; other words are refused for one."""
    assert text == scalar(text)
    with pytest.raises(LabError, match=f"cold_start='{text}'"):
        cli._settings({"items": "3", "cold_start": text})


def test_a_parameter_of_another_base_is_refused():
    """With its name."""
    with pytest.raises(NotebookError, match="p: '0x10': not a decimal number"):
        notebooks._typed("p", "0x10", "5")
