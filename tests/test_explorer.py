"""The explorer: sliders that move a prediction."""

import re
import warnings

import matplotlib.pyplot as plt
import pytest

from helpers import Experiment, exponential, metrics, plots, simulate
from helpers.errors import LabError
from helpers.explorer import STEPS, Picture, explore


def parts(widget):
    grid, numbers, image = widget.children
    return {slider.description: slider for slider in grid.children}, numbers, image


def test_a_moved_slider_predicts_again():
    """Numbers and picture are those of the settings that the sliders show."""
    sliders, numbers, image = parts(explore(Experiment(500, worker_concurrency=10)))
    assert list(sliders) == list(STEPS)
    before = image.value
    sliders["worker_concurrency"].value = 50
    expected = metrics.summary(simulate(Experiment(500, map_concurrency=10_000, worker_concurrency=50)))
    assert f"<b>{expected['makespan']:,.4g} s</b>" in numbers.value
    assert f"and {expected['peak_workers']:,} workers at once" in numbers.value
    assert bytes(image.value).startswith(b"\x89PNG")
    assert image.value != before


def test_a_slider_keeps_a_value_of_its_own():
    """What the experiment says is on its slider, in its place, and 0 stands as the 10,000 that it means."""
    sliders, _, _ = parts(explore(Experiment(777, worker_concurrency=17)))
    assert sliders["items"].value == 777
    assert sliders["worker_concurrency"].value == 17
    assert sliders["map_concurrency"].value == 10_000
    for slider in sliders.values():
        assert list(slider.options) == sorted(slider.options)


def test_what_an_experiment_refuses_is_told_and_the_last_run_stays():
    """The remedy stands where the numbers stood, the picture does not change; the next move is fine."""
    sliders, numbers, image = parts(explore(Experiment(100, consumer="fleet", batch_size=10, siphon_share=1)))
    before = image.value
    sliders["batch_size"].options = (10, 11)
    sliders["batch_size"].value = 11
    assert re.search("Not possible.*batch_size=11", numbers.value)
    assert image.value == before
    sliders["batch_size"].value = 10
    assert "Not possible" not in numbers.value


def test_a_distribution_has_no_slider():
    """It is refused with what to give instead."""
    with pytest.raises(LabError, match="limited_seconds"):
        explore(Experiment(10, limited_seconds=exponential(1.0)))


def test_axes_stay_where_they_are_in_the_labs_style():
    """Where the style fits layouts, a picture is drawn without a warning, and its axes never move."""
    with warnings.catch_warnings(), plt.style.context(plots.STYLE):
        warnings.simplefilter("error")
        picture = Picture()
        places = []
        for workers in (2, 200):
            trace = simulate(Experiment(500, worker_concurrency=workers, limited_seconds=5.0))
            picture.draw(trace, metrics.summary(trace))
            places.append([ax.get_position().bounds for ax in (picture.timeline, picture.times)])
    assert places[0] == places[1]
