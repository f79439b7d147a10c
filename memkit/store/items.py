"""Items that know their version; in all else they are LangGraph's."""

from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

from langgraph.store.base import Item, SearchItem

C = TypeVar("C", bound=type[Item])


def serialized_as(plain: type[Item]) -> Callable[[C], C]:
    """Let checkpoints write a subclass as the plain class.

    LangGraph's serializer writes the module and name of an item's class beside `dict()`, and in
    strict mode reads back only what it knows: an item kept in a state must stay readable.
    """

    def disguise(versioned: C) -> C:
        versioned.__module__, versioned.__name__ = plain.__module__, plain.__name__
        return versioned

    return disguise


@serialized_as(Item)
class VersionedItem(Item):
    """What `get` gives: an item, and the version to hand to `put(..., if_version=)`."""

    __slots__ = ("version",)

    def __init__(
        self,
        *,
        value: dict[str, Any],
        key: str,
        namespace: tuple[str, ...],
        created_at: datetime,
        updated_at: datetime,
        version: int,
    ) -> None:
        super().__init__(
            value=value, key=key, namespace=namespace, created_at=created_at, updated_at=updated_at
        )
        self.version = version

    def __reduce__(self) -> tuple[Any, ...]:
        fields = ("value", "key", "namespace", "created_at", "updated_at", "version")
        return _item, ({name: getattr(self, name) for name in fields},)


@serialized_as(SearchItem)
class VersionedSearchItem(SearchItem):
    """What a search gives: an item with its score, and the version it has."""

    __slots__ = ("version",)

    def __init__(  # noqa: PLR0917 - SearchItem's order
        self,
        namespace: tuple[str, ...],
        key: str,
        value: dict[str, Any],
        created_at: datetime,
        updated_at: datetime,
        score: float | None = None,
        *,
        version: int,
    ) -> None:
        super().__init__(namespace, key, value, created_at, updated_at, score)
        self.version = version

    def __reduce__(self) -> tuple[Any, ...]:
        fields = ("namespace", "key", "value", "created_at", "updated_at", "score", "version")
        return _search_item, ({name: getattr(self, name) for name in fields},)


# The classes cannot be pickled by the names they go by.


def _item(fields: dict[str, Any]) -> VersionedItem:
    return VersionedItem(**fields)


def _search_item(fields: dict[str, Any]) -> VersionedSearchItem:
    return VersionedSearchItem(**fields)
