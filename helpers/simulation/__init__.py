"""Simulate experiments in virtual time, under AWS's quotas."""

from helpers.simulation.model import simulate
from helpers.simulation.quotas import AWS_OTHER_REGIONS, AWS_US_EAST_1, NEW_ACCOUNT, UNLIMITED, Quotas

__all__ = ["AWS_OTHER_REGIONS", "AWS_US_EAST_1", "NEW_ACCOUNT", "UNLIMITED", "Quotas", "simulate"]
