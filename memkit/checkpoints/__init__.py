"""Checkpoints of any saver: what they take, what of them is needed, and how they move."""

from memkit.checkpoints.backend import Tally, ThreadSize
from memkit.checkpoints.estimate import Estimate, estimate
from memkit.checkpoints.prune import aprune, prune
from memkit.checkpoints.report import PruneReport, Refusal
from memkit.checkpoints.sizes import CheckpointReport, Growth, areport, report
from memkit.checkpoints.transfer import CopyReport, acopy, copy

__all__ = [
    "CheckpointReport",
    "CopyReport",
    "Estimate",
    "Growth",
    "PruneReport",
    "Refusal",
    "Tally",
    "ThreadSize",
    "acopy",
    "aprune",
    "areport",
    "copy",
    "estimate",
    "prune",
    "report",
]
