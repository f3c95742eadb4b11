"""Every fault of tests/faults, tried once; and the table that the command made of them."""

import re

import pytest

from tests.faults.__main__ import PAGE
from tests.faults.trial import Damage, all_faults, attempt

FAULTS = all_faults()


@pytest.mark.parametrize("tried", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_harms_nothing(tried, engine, tmp_path):
    """No item is lost or doubled, nothing is left behind; what else holds, the fault asserts itself."""
    found = attempt(tried, engine, tmp_path / tried.name)
    assert found == Damage(found.items)
    assert found.items > 0


def test_the_table_has_every_fault_and_zeros():
    """docs/faults.md tells each fault, tried at least three times with no damage, and README its sums."""
    rows = re.findall(
        r"^\| (\w+) \| (.+) \| (.+) \| (\d+) \| (\d+) \| (.+) \| (.+) \| (.+) \|$", PAGE.read_text(), re.M
    )
    assert [row[:3] for row in rows] == [(f.name, f.injected, f.law) for f in FAULTS]
    assert {row[5:] for row in rows} == {("0", "0", "0")}
    assert all(int(row[3]) >= 3 and int(row[4]) > 0 for row in rows)
    told = f"Of {len(rows)} faults, each tried three times with {sum(int(row[4]) for row in rows):,} items"
    assert told in PAGE.parents[1].joinpath("README.md").read_text()
