"""Facts: what they are, when they are stale, and what a new statement does to known ones."""

from memkit.facts.model import SINGLE_VALUED, Fact, as_utc, same_statement
from memkit.facts.reconcile import reconcile
from memkit.facts.staleness import StalenessPolicy, duration
from memkit.facts.succession import Change
from memkit.facts.timeline import abandoned, as_of, history
from memkit.facts.upkeep import Audit, Upkeep, audit, consolidate

__all__ = [
    "SINGLE_VALUED",
    "Audit",
    "Change",
    "Fact",
    "StalenessPolicy",
    "Upkeep",
    "abandoned",
    "as_of",
    "as_utc",
    "audit",
    "consolidate",
    "duration",
    "history",
    "reconcile",
    "same_statement",
]
