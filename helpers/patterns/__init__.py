"""Ways to do the same work with only so many tasks at once, each deployed, run and measured alike.

The work is an Experiment whose items all take the limited lane: items, limited_seconds of each, and
worker_concurrency, the limit that each pattern has its own means to keep.
"""

from helpers.patterns.pattern import Pattern

__all__ = ["Pattern"]
