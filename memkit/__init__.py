"""memkit: memory for LangGraph agents."""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from memkit.context import ContextBudget, context, trim
from memkit.facts import StalenessPolicy
from memkit.nodes import (
    FactExtractor,
    MemoryRecall,
    RollingSummarizer,
    StaleFactCheck,
    TokenTrimmer,
    TurnRecorder,
)
from memkit.state import MemoryState
from memkit.tokens import count_tokens
from memkit.wiring import add_memory

if TYPE_CHECKING:
    from memkit.store import SemanticStore

__version__ = version("memkit")
__all__ = [
    "ContextBudget",
    "FactExtractor",
    "MemoryRecall",
    "MemoryState",
    "RollingSummarizer",
    "SemanticStore",
    "StaleFactCheck",
    "StalenessPolicy",
    "TokenTrimmer",
    "TurnRecorder",
    "add_memory",
    "context",
    "count_tokens",
    "trim",
]


def __getattr__(name: str) -> Any:
    # psycopg is loaded when the store is asked for: nodes run without it.
    if name == "SemanticStore":
        from memkit.store import SemanticStore

        return SemanticStore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
