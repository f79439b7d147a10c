"""Checkpoints of any saver: what of them is needed, and how the rest goes safely."""

from memkit.checkpoints.backend import Tally
from memkit.checkpoints.prune import aprune, prune
from memkit.checkpoints.report import PruneReport, Refusal

__all__ = ["PruneReport", "Refusal", "Tally", "aprune", "prune"]
