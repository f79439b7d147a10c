"""Graph nodes: each does one thing, and slots into any checkpointed graph."""

from memkit.nodes.consolidate import FactConsolidator
from memkit.nodes.extract import FactExtractor
from memkit.nodes.recall import MemoryRecall
from memkit.nodes.record import TurnRecorder
from memkit.nodes.results import afind_tool_result, find_tool_result
from memkit.nodes.retention import Retention
from memkit.nodes.summarize import RollingSummarizer
from memkit.nodes.trim import TokenTrimmer
from memkit.nodes.verify import StaleFactCheck

__all__ = [
    "FactConsolidator",
    "FactExtractor",
    "MemoryRecall",
    "Retention",
    "RollingSummarizer",
    "StaleFactCheck",
    "TokenTrimmer",
    "TurnRecorder",
    "afind_tool_result",
    "find_tool_result",
]
