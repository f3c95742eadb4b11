"""Simulate experiments in virtual time, under AWS's quotas."""

from helpers.simulation.model import simulate
from helpers.simulation.quotas import (
    AWS_OTHER_REGIONS,
    AWS_US_EAST_1,
    EMBEDDED,
    NEW_ACCOUNT,
    OLDER_MAPPING,
    PROVISIONED_MAPPING,
    UNLIMITED,
    Quotas,
    sources,
)

__all__ = [
    "AWS_OTHER_REGIONS",
    "AWS_US_EAST_1",
    "EMBEDDED",
    "NEW_ACCOUNT",
    "OLDER_MAPPING",
    "PROVISIONED_MAPPING",
    "UNLIMITED",
    "Quotas",
    "simulate",
    "sources",
]
