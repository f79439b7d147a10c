"""Long-term memory in Postgres: a LangGraph store with search by meaning and by words."""

from memkit.store.items import VersionedItem, VersionedSearchItem
from memkit.store.plan import SearchMode
from memkit.store.semantic import SemanticIndexConfig, SemanticStore

__all__ = [
    "SearchMode",
    "SemanticIndexConfig",
    "SemanticStore",
    "VersionedItem",
    "VersionedSearchItem",
]
