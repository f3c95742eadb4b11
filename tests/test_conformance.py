"""The conformance suite: what it says of the embedded engine is so, and no probe can end another."""

import json
import time

import pytest

from helpers.engines import behaviours
from helpers.errors import EngineError
from tests.conformance import report
from tests.conformance.probe import AREAS, Probe, all_probes, measure, plain, registry
from tests.conformance.site import Absent, Site


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_embedded_engine_is_as_the_table_says(engine):
    """Every behaviour is shown by the embedded engine, or is not, as behaviours.json has it."""
    column = behaviours.table()["engines"]["embedded"]["results"]
    found = {probe.name: result for probe, result in measure(all_probes(), engine.endpoint_url)}
    changed = {
        name: (column[name], result)
        for name, result in found.items()
        if column[name]["state"] != result.state
    }
    assert changed == {}


def test_lessons_rely_on_what_the_embedded_engine_shows():
    """The embedded engine shows every behaviour that a lesson relies on."""
    table = behaviours.table()["behaviours"]
    relied = [name for name in table if table[name]["lesson"]]
    assert relied
    assert [name for name in relied if not behaviours.shows("embedded", name)] == []


def test_the_page_is_made_from_the_table():
    """docs/engines.md is what behaviours.json gives."""
    assert report.page(behaviours.table()) == report.PAGE.read_text()


def test_readme_has_the_totals_of_the_page():
    """What README counts of each engine is what the page counts, and so is the number of probes."""
    readme = (report.PAGE.parents[1] / "README.md").read_text()
    assert "\n".join(report.totals(behaviours.table())) in readme
    assert f" {len(all_probes())} probes " in readme


def test_the_table_has_the_words_of_the_probes():
    """behaviours.json has every probe, with its words and its page on docs.aws.amazon.com, and no other."""
    assert report.documented() == behaviours.table()["behaviours"]
    assert set(AREAS) == {name.partition(".")[0] for name in registry}
    for probe in all_probes():
        assert probe.aws.endswith("."), probe.name
        assert probe.page.startswith("https://docs.aws.amazon.com/"), probe.name


def made(name, look, expects="as expected", seconds=30.0):
    """A probe outside the registry."""
    return Probe(f"test.{name}", "", "", expects, "", False, seconds, look)


def leaves(site: Site):
    raise SystemExit("crashed")


def raises(site: Site):
    raise ValueError("no such thing")


def hangs(site: Site):
    time.sleep(3600)


def refuses(site: Site):
    site.sqs.get_queue_url(QueueName=site.name())


def lacks(site: Site):
    raise Absent("no such feature")


def test_a_probe_that_fails_is_a_row_and_no_more(engine):
    """A probe that raises, hangs, exits or finds an API missing is a result; the others still run."""
    looks = (leaves, raises, hangs, refuses, lacks)
    probes = [made(look.__name__, look, seconds=1 if look is hangs else 30) for look in looks]
    probes += [made("well", lambda site: "as expected"), made("other", lambda site: "something else")]
    found = {p.name: result for p, result in measure(probes, engine.endpoint_url)}
    assert {p.name for p in probes} == set(found)
    assert (found["test.leaves"].state, found["test.leaves"].seen) == ("no", "SystemExit: crashed")
    assert (found["test.raises"].state, found["test.raises"].seen) == ("no", "ValueError: no such thing")
    assert (found["test.hangs"].state, found["test.hangs"].seen) == ("no", "no result within 1 s")
    assert found["test.refuses"].state == "no"
    assert (
        "QueueDoesNotExist" in found["test.refuses"].seen or "NonExistentQueue" in found["test.refuses"].seen
    )
    assert (found["test.lacks"].state, found["test.lacks"].seen) == ("absent", "no such feature")
    assert (found["test.well"].state, found["test.well"].seen) == ("yes", "as expected")
    assert (found["test.other"].state, found["test.other"].seen) == ("no", "something else")


def test_probes_leave_nothing(engine):
    """What a probe made is deleted, even when it fails half-way or hangs, and so is the suite's role."""
    urls = []

    def makes(site: Site):
        urls.append(site.queue())
        site.machine({"Do": {"Type": "Pass", "End": True}})
        site.bucket(a="1")
        raise ValueError

    def hangs_with_queue(site: Site):
        urls.append(site.queue())
        time.sleep(3600)

    list(measure([made("makes", makes), made("hangs", hangs_with_queue, seconds=1)], engine.endpoint_url))
    assert len(urls) == 2
    assert engine.client("sqs").list_queues(QueueNamePrefix="conformance-").get("QueueUrls", []) == []
    machines = engine.client("stepfunctions").list_state_machines()["stateMachines"]
    buckets = engine.client("s3").list_buckets()["Buckets"]
    roles = engine.client("iam").list_roles()["Roles"]
    names = [m["name"] for m in machines] + [b["Name"] for b in buckets] + [r["RoleName"] for r in roles]
    assert [name for name in names if name.startswith("conformance-")] == []


def test_what_was_seen_reads_alike_at_each_run():
    """ARNs, URLs, ids and names of ours are written as such, and long texts are cut."""
    text = "arn:aws:sqs:us-east-1:0:x at http://127.0.0.1:4566/x, conformance-0123456789ab"
    assert plain(text).replace(",", "") == "ARN at URL NAME"
    assert plain("01234567-89ab-cdef-0123-456789abcdef") == "ID"
    assert len(plain("x" * 500)) == 120


@pytest.fixture
def table(monkeypatch, tmp_path):
    """A table of our own: two behaviours, two engines."""
    file = tmp_path / "behaviours.json"
    told = {"aws": "It does.", "page": "https://docs.aws.amazon.com/", "lesson": False}
    results = {"area.one": {"state": "yes", "seen": ""}, "area.two": {"state": "no", "seen": ""}}
    engines = {name: {"release": "1", "date": "", "results": results} for name in ("embedded", "moto")}
    engines["moto"] = {**engines["moto"], "results": {"area.two": {"state": "absent", "seen": ""}}}
    file.write_text(json.dumps({"behaviours": {"area.one": told, "area.two": told}, "engines": engines}))
    monkeypatch.setattr(behaviours, "FILE", file)
    behaviours.table.cache_clear()
    yield
    behaviours.table.cache_clear()


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        ("embedded", ["area.two"]),
        ("moto", ["area.one", "area.two"]),
        ("aws", []),
        ("endpoint", []),
        ("simulated", ["area.one", "area.two"]),
    ],
)
def test_an_engine_shows_what_was_measured(table, engine, expected):
    """Only a yes is shown, what was not run is not; AWS and an engine without a column show all, and the
    simulator nothing."""
    assert expected == behaviours.not_shown(engine)


def test_an_unknown_behaviour_is_refused(table):
    """A behaviour that no probe has is refused, naming those that are near."""
    with pytest.raises(EngineError, match=r"behaviour 'area\.ones'.*area\.one"):
        behaviours.shows("embedded", "area.ones")
    with pytest.raises(EngineError, match=r"docs/engines\.md"):
        behaviours.shows("aws", "quite another thing")


def test_an_engine_says_what_it_shows(engine):
    """`engine.shows` is the table's word on that engine."""
    for name in behaviours.table()["behaviours"]:
        assert behaviours.shows("embedded", name) == engine.shows(name)
