"""Long-term memory in Postgres: a LangGraph store with search by meaning and by words."""

from memkit.store.erase import Erased
from memkit.store.indexes import Built
from memkit.store.items import VersionedItem, VersionedSearchItem
from memkit.store.plan import SearchMode
from memkit.store.search import Boosts
from memkit.store.semantic import SemanticIndexConfig, SemanticStore
from memkit.store.transfer import ImportReport, import_postgres_store

__all__ = [
    "Boosts",
    "Built",
    "Erased",
    "ImportReport",
    "SearchMode",
    "SemanticIndexConfig",
    "SemanticStore",
    "VersionedItem",
    "VersionedSearchItem",
    "import_postgres_store",
]
