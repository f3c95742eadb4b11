"""Calibration: quotas are read back from what was simulated under them, and what cannot tell is refused."""

import json
import math
from dataclasses import asdict, replace

import pytest
import synthetic  # noqa: F401  # its profile: a slow machine is no failing law
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from helpers import cli, simulate
from helpers.commands import places
from helpers.engines.simulated import Simulated
from helpers.errors import LabError, TraceError
from helpers.experiment import Experiment, lognormal
from helpers.simulation import AWS_US_EAST_1, UNLIMITED, Quotas, calibration
from helpers.simulation.quotas import EMBEDDED, PRESETS
from helpers.trace import Trace

EASY, HARD = calibration.EXPERIMENTS
OTHERS = (
    Experiment(200, map_concurrency=30, siphon_share=0.3, worker_concurrency=8, limited_seconds=0.4),
    Experiment(150, siphon_share=0.8, worker_concurrency=15, limited_seconds=lognormal(0.3, 1.0)),
    Experiment(500, map_concurrency=50, worker_concurrency=40, direct_seconds=0.02, limited_seconds=0.05),
)
"""Settings that no calibration sees."""
_latency = st.floats(0.0, 0.03)
engines = st.builds(
    replace,
    st.just(UNLIMITED),
    map_start_seconds=st.floats(0.0, 0.5),
    children_per_second=st.sampled_from([500.0, 1_500.0, math.inf]),
    transitions_burst=st.just(calibration.BURST),
    transitions_per_second=st.floats(400.0, 1200.0),
    invoke_seconds=_latency,
    send_seconds=_latency,
    receive_seconds=_latency,
    answer_seconds=_latency,
    return_seconds=_latency,
)


def traces(quotas: Quotas) -> list[Trace]:
    return [simulate(experiment, quotas) for experiment in calibration.EXPERIMENTS]


@settings(max_examples=40)
@given(engines)
def test_what_was_simulated_under_quotas_is_calibrated_back_to_them(known):
    """Times to 2 ms or a tenth, rates to a tenth, and a map without a rate as one without."""
    found = calibration.calibrate(traces(known))
    for name, value in asdict(known).items():
        if name != "children_per_second" or value < math.inf:
            assert getattr(found, name) == pytest.approx(value, rel=0.1, abs=0.002), name
        else:
            assert value == found.children_per_second


@settings(max_examples=20)
@given(engines)
def test_other_settings_are_predicted_as_under_the_quotas_themselves(known):
    """Within a twentieth, though calibration saw neither their items, nor their workers, nor their times."""
    found = calibration.calibrate(traces(known))
    table = calibration.compare([simulate(other, known) for other in OTHERS], found)
    assert table["error"].abs().max() < 0.05


def changed(trace: Trace, **experiment: object) -> Trace:
    """The trace as if its experiment had been another."""
    return replace(trace, experiment=replace(trace.experiment, **experiment))


KNOWN = replace(
    UNLIMITED,
    map_start_seconds=0.1,
    children_per_second=500.0,
    transitions_burst=calibration.BURST,
    transitions_per_second=800.0,
    receive_seconds=0.01,
)


def run_of(experiment: Experiment = EASY, **changes: object) -> Trace:
    """The trace of an experiment, so changed, under the known quotas."""
    return simulate(replace(experiment, **changes), KNOWN)


@pytest.fixture(scope="module")
def easy() -> Trace:
    return run_of()


@pytest.fixture(scope="module")
def hard() -> Trace:
    return run_of(HARD)


@pytest.mark.parametrize(
    ("given_traces", "told"),
    [
        (lambda easy, hard: [], "0 easy and 0 hard"),
        (lambda easy, hard: [easy], "1 easy and 0 hard"),
        (lambda easy, hard: [hard], "0 easy and 1 hard"),
        (lambda easy, hard: [run_of(siphon_share=1.0), hard], "0 items in the direct lane"),
        (lambda easy, hard: [run_of(siphon_share=0.05), hard], "items in the limited lane"),
        (lambda easy, hard: [changed(easy, consumer="fleet"), hard], "consumer='lambda'"),
        (lambda easy, hard: [changed(easy, cold_start=True), hard], "measure it warm"),
        (lambda easy, hard: [changed(easy, arrivals_per_second=5.0), hard], "without arrivals"),
        (lambda easy, hard: [run_of(failure_rate=0.3), hard], "failure_rate=0"),
        (lambda easy, hard: [changed(easy, batch_size=2), hard], "batch_size=2"),
        (lambda easy, hard: [easy, run_of(HARD, map_concurrency=5)], "map_concurrency=5"),
        (lambda easy, hard: traces(AWS_US_EAST_1), "explain"),
    ],
)
def test_traces_that_cannot_tell_are_refused_with_the_remedy(given_traces, told, easy, hard):
    """What is wrong with them, and what to measure instead."""
    with pytest.raises(TraceError, match="measure") as refused:
        calibration.calibrate(given_traces(easy, hard))
    assert told in str(refused.value)


def test_a_comparison_has_a_row_for_each_setting_with_the_medians_of_its_runs():
    """Runs that differ in their seeds are one setting. Under its own quotas a run has no error."""
    settings = [replace(EASY, worker_concurrency=workers) for workers in (4, 6)]
    runs = [simulate(replace(setting, seed=seed), KNOWN) for seed in range(3) for setting in settings]
    table = calibration.compare(runs, KNOWN)
    assert list(table) == ["worker_concurrency", "measured", "predicted", "error", "runs"]
    assert table["worker_concurrency"].tolist() == [4, 6]
    assert table["runs"].tolist() == [3, 3]
    assert table["error"].tolist() == [0.0, 0.0]
    makespans = [
        float(trace.items["returned"].max()) for trace in runs if trace.experiment.worker_concurrency == 4
    ]
    assert sorted(makespans)[1] == table["measured"][0]


def test_a_comparison_tells_how_far_a_prediction_is_off(easy):
    """Predicted with half the measured start, a run seems shorter by just that."""
    table = calibration.compare([easy], replace(KNOWN, map_start_seconds=0.05))
    measured = float(easy.items["returned"].max())
    assert table["error"][0] == pytest.approx(-0.05 / measured)


@given(engines)
def test_quotas_survive_json(known):
    """What is written as strict JSON, infinities too, is read back equal."""
    text = json.dumps(known.to_dict(), allow_nan=False)
    assert known == Quotas.from_dict(json.loads(text))


@pytest.mark.parametrize("name", PRESETS)
def test_each_preset_survives_json(name):
    """Its limits, its times and its switches."""
    assert PRESETS[name] == Quotas.from_dict(json.loads(json.dumps(PRESETS[name].to_dict(), allow_nan=False)))


@pytest.mark.parametrize(
    ("change", "told"),
    [({"colour": 1.0}, "colour"), ({"send_seconds": -1.0}, "send_seconds=-1.0")],
)
def test_figures_that_are_no_quotas_are_refused(change, told):
    """An unknown figure by its name, a bad one by its value."""
    with pytest.raises(LabError, match=told):
        Quotas.from_dict(UNLIMITED.to_dict() | change)


def test_a_missing_figure_is_refused():
    """It would silently be AWS's."""
    figures = UNLIMITED.to_dict()
    del figures["send_seconds"]
    with pytest.raises(LabError, match="send_seconds"):
        Quotas.from_dict(figures)


def test_the_command_prints_and_saves_what_it_calibrated(monkeypatch, tmp_path):
    """The file holds the quotas of the engine, which the printed figures are, too."""
    monkeypatch.setattr(places, "connect", lambda name, **_: Simulated(KNOWN))
    file = tmp_path / "new" / "quotas.json"
    ran = CliRunner().invoke(cli.app, ["calibrate", "--engine", "simulated", "--out", str(file)])
    assert ran.exit_code == 0, ran.output
    saved = Quotas.from_dict(json.loads(file.read_text()))
    assert calibration.calibrate(calibration.measure(Simulated(KNOWN))) == saved
    assert f"transitions_per_second = {round(saved.transitions_per_second, 6)}" in ran.output
    assert "account_concurrency = unlimited" in ran.output


def test_the_embedded_engine_has_none_of_awss_limits():
    """What the preset leaves limited are its own rates and times."""
    ours = {name for name, value in asdict(UNLIMITED).items() if value != getattr(EMBEDDED, name)}
    assert ours <= {
        *("map_start_seconds", "children_per_second", "transitions_burst", "transitions_per_second"),
        *("invoke_seconds", "send_seconds", "receive_seconds", "answer_seconds", "return_seconds"),
    }
