"""A package, since Ciw brings one of this name, which would hide a mere folder from `python -m tests.…`."""

import sys
from pathlib import Path

# The tests import what they share, such as twin, by its own name: pytest adds a package's parent only.
sys.path.insert(0, str(Path(__file__).parent))
