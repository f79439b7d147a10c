"""memkit: memory for LangGraph agents."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memkit.budget import ContextBudget
    from memkit.factbook import FactBook
    from memkit.facts import StalenessPolicy
    from memkit.idempotency import idempotency_key
    from memkit.nodes import (
        FactConsolidator,
        FactExtractor,
        MemoryRecall,
        Retention,
        RollingSummarizer,
        StaleFactCheck,
        TokenTrimmer,
        TurnRecorder,
        afind_tool_result,
        find_tool_result,
    )
    from memkit.state import DeltaMemoryState, MemoryState
    from memkit.store import SemanticStore
    from memkit.tokens import count_tokens
    from memkit.view import context, trim
    from memkit.wiring import add_memory

__version__ = version("memkit")
__all__ = [
    "ContextBudget",
    "DeltaMemoryState",
    "FactBook",
    "FactConsolidator",
    "FactExtractor",
    "MemoryRecall",
    "MemoryState",
    "Retention",
    "RollingSummarizer",
    "SemanticStore",
    "StaleFactCheck",
    "StalenessPolicy",
    "TokenTrimmer",
    "TurnRecorder",
    "add_memory",
    "afind_tool_result",
    "context",
    "count_tokens",
    "find_tool_result",
    "idempotency_key",
    "trim",
]

# Loaded when they are asked for: nodes run without psycopg, and the command line starts at once.
_HOMES = {
    "ContextBudget": "memkit.budget",
    "DeltaMemoryState": "memkit.state",
    "FactBook": "memkit.factbook",
    "MemoryState": "memkit.state",
    "SemanticStore": "memkit.store",
    "StalenessPolicy": "memkit.facts",
    "add_memory": "memkit.wiring",
    "context": "memkit.view",
    "count_tokens": "memkit.tokens",
    "idempotency_key": "memkit.idempotency",
    "trim": "memkit.view",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES.get(name, "memkit.nodes")), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
