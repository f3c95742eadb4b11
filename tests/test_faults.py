"""Every fault of tests/faults, tried once."""

import pytest

from tests.faults.trial import Damage, all_faults, attempt

FAULTS = all_faults()


@pytest.mark.parametrize("tried", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_harms_nothing(tried, engine, tmp_path):
    """No item is lost or doubled, nothing is left behind; what else holds, the fault asserts itself."""
    found = attempt(tried, engine, tmp_path / tried.name)
    assert found == Damage(found.items)
    assert found.items > 0
