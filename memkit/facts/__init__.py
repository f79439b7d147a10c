"""Facts: what they are, when they are stale, and what a new statement does to known ones."""

from memkit.facts.model import SINGLE_VALUED, Fact, as_utc
from memkit.facts.reconcile import Change, reconcile, same_statement
from memkit.facts.staleness import StalenessPolicy, duration

__all__ = [
    "SINGLE_VALUED",
    "Change",
    "Fact",
    "StalenessPolicy",
    "as_utc",
    "duration",
    "reconcile",
    "same_statement",
]
