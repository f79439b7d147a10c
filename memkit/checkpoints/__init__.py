"""Checkpoints of any saver: what they take, what of them is needed, and how they move."""

from memkit.checkpoints.backend import Tally, ThreadSize
from memkit.checkpoints.prune import aprune, prune
from memkit.checkpoints.report import PruneReport, Refusal
from memkit.checkpoints.sizes import CheckpointReport, Growth, areport, report

__all__ = [
    "CheckpointReport",
    "Growth",
    "PruneReport",
    "Refusal",
    "Tally",
    "ThreadSize",
    "aprune",
    "areport",
    "prune",
    "report",
]
