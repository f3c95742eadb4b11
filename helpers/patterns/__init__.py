"""Ways to do the same work with only so many tasks at once, each deployed, run and measured alike.

The work is an Experiment whose items all take the limited lane: items, limited_seconds of each, and
worker_concurrency, the limit that each pattern has its own means to keep.
"""

from helpers.patterns.comparison import Comparison, compare
from helpers.patterns.pattern import Pattern
from helpers.patterns.registry import PATTERNS, named
from helpers.patterns.showing import figure, markdown, rows, save, text

__all__ = [
    "PATTERNS",
    "Comparison",
    "Pattern",
    "compare",
    "figure",
    "markdown",
    "named",
    "rows",
    "save",
    "text",
]
