"""Facts: what they are, when they are stale, and what a new statement does to known ones."""

from memkit.facts.audit import Audit, audit
from memkit.facts.consolidation import Consolidation, consolidate
from memkit.facts.model import SINGLE_VALUED, Fact, as_utc, same_statement
from memkit.facts.reconcile import reconcile
from memkit.facts.staleness import StalenessPolicy, duration
from memkit.facts.succession import Change
from memkit.facts.timeline import abandoned, as_of, history

__all__ = [
    "SINGLE_VALUED",
    "Audit",
    "Change",
    "Consolidation",
    "Fact",
    "StalenessPolicy",
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
