"""The stores that are measured, all called in the same way; and the floor under memkit's.

The floor sends the statements that SemanticStore sends for a call, with the same parameters, by
psycopg alone: prepared, in one transaction where they are several, and their rows are fetched and
not looked at. They are taken down from a SemanticStore whose connections note what is executed, so
that the floor stays what it says when the store's SQL changes.
"""

import threading
from collections.abc import Sequence
from contextlib import ExitStack
from importlib import import_module
from queue import LifoQueue
from typing import Any, Protocol, TypeAlias, cast

import psycopg
from langchain_core.embeddings import Embeddings
from langgraph.store.base import (
    BaseStore,
    GetOp,
    ListNamespacesOp,
    PutOp,
    SearchOp,
    TTLConfig,
)
from pgvector.psycopg import register_vector

from benchmarks.store_data import FIELD, ROOT
from memkit.errors import ConfigError
from memkit.store import SemanticStore
from memkit.store.plan import SearchMode

MEMKIT, FLOOR, PEER = "memkit", "the floor", "PostgresStore"

WORKERS = 8
"""The callers at once, and the connections of each pool."""

TTL_MINUTES = 43_200.0  # thirty days
TTL: TTLConfig = {"default_ttl": TTL_MINUTES, "refresh_on_read": True, "omit_expired": True}

Call: TypeAlias = SearchOp | GetOp | ListNamespacesOp | PutOp | tuple[PutOp, ...]
"""What is asked of a store; several puts are one batch."""


class System(Protocol):
    """A way to make a call; from several threads at once."""

    def __call__(self, call: Call, /) -> Any:
        """Make a call and return what it gives."""


class Stored:
    """A LangGraph store."""

    def __init__(self, store: BaseStore) -> None:
        self.store = store

    def __call__(self, call: Call) -> Any:
        """Make a call through the method that a node would use."""
        match call:
            case SearchOp():
                return self.store.search(
                    call.namespace_prefix,
                    query=call.query,
                    filter=call.filter,
                    limit=call.limit,
                    refresh_ttl=call.refresh_ttl,
                )
            case GetOp():
                return self.store.get(call.namespace, call.key)
            case ListNamespacesOp():
                return self.store.list_namespaces(**_listing(call))
            case PutOp():
                return self.store.put(call.namespace, call.key, call.value or {}, ttl=call.ttl)
            case _:
                return self.store.batch(call)


class StoredAsync:
    """A LangGraph store, called from an event loop."""

    def __init__(self, store: BaseStore) -> None:
        self.store = store

    async def __call__(self, call: Call) -> Any:
        """Make a call through the method that a node would use."""
        match call:
            case SearchOp():
                return await self.store.asearch(
                    call.namespace_prefix,
                    query=call.query,
                    filter=call.filter,
                    limit=call.limit,
                    refresh_ttl=call.refresh_ttl,
                )
            case GetOp():
                return await self.store.aget(call.namespace, call.key)
            case ListNamespacesOp():
                return await self.store.alist_namespaces(**_listing(call))
            case PutOp():
                return await self.store.aput(
                    call.namespace, call.key, call.value or {}, ttl=call.ttl
                )
            case _:
                return await self.store.abatch(call)


def _listing(call: ListNamespacesOp) -> dict[str, Any]:
    conditions = call.match_conditions or ()
    paths = {condition.match_type: condition.path for condition in conditions}
    return {
        "prefix": paths.get("prefix"),
        "suffix": paths.get("suffix"),
        "max_depth": call.max_depth,
        "limit": call.limit,
        "offset": call.offset,
    }


def memkit_store(
    dsn: str, embeddings: Embeddings, dims: int, *, mode: SearchMode = "vector", **kwargs: Any
) -> SemanticStore:
    """Open memkit's store; further arguments go to its connections."""
    return SemanticStore.from_conn_string(
        dsn,
        index={"dims": dims, "embed": embeddings, "fields": [FIELD]},
        ttl=TTL,
        search_mode=mode,
        pool_config={"min_size": WORKERS, "max_size": WORKERS, "kwargs": kwargs},
    )


def need_peer() -> None:
    """Make sure of the peer before the work begins.

    Raises:
        ConfigError: It is not installed.
    """
    _peer("langgraph.store.postgres", "PostgresStore")


def peer_store(dsn: str, embeddings: Embeddings, dims: int, resources: ExitStack) -> BaseStore:
    """Open PostgresStore as it is by default, but with a pool as large as memkit's.

    Raises:
        ConfigError: It is not installed.
    """
    store = resources.enter_context(
        _peer("langgraph.store.postgres", "PostgresStore").from_conn_string(
            dsn, **_peer_arguments(embeddings, dims)
        )
    )
    return cast("BaseStore", store)


def peer_store_async(dsn: str, embeddings: Embeddings, dims: int) -> Any:
    """Return a context manager of the AsyncPostgresStore over the same tables."""
    opened = _peer("langgraph.store.postgres.aio", "AsyncPostgresStore")
    return opened.from_conn_string(dsn, **_peer_arguments(embeddings, dims))


def _peer(module: str, name: str) -> Any:
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{error.name} is not installed; the benchmark needs it: pip install 'memkit[bench]'"
        ) from error


def _peer_arguments(embeddings: Embeddings, dims: int) -> dict[str, Any]:
    return {
        "index": {"dims": dims, "embed": embeddings, "fields": [FIELD]},
        "ttl": TTL,
        "pool_config": {"min_size": WORKERS, "max_size": WORKERS},
    }


# -- the floor ---------------------------------------------------------------------------------

_Statements: TypeAlias = list[tuple[Any, Any]]
_noted = threading.local()


class _Noting(psycopg.Cursor[Any]):
    """A cursor that notes what this thread executes."""

    def execute(self, query: Any, params: Any = None, **kwargs: Any) -> "_Noting":
        statements: _Statements | None = getattr(_noted, "statements", None)
        if statements is not None:
            statements.append((query, params))
        super().execute(query, params, **kwargs)
        return self

    def executemany(self, query: Any, params_seq: Any, *, returning: bool = False) -> None:
        raise NotImplementedError(f"the floor cannot repeat executemany: {query}")

    def copy(self, statement: Any, params: Any = None, *, writer: Any = None) -> Any:
        raise NotImplementedError(f"the floor cannot repeat COPY: {statement}")


class Floor:
    """The statements of memkit's store, by psycopg alone.

    Args:
        dsn: The database of memkit's store.
        embeddings: As the store has them.
        dims: The length of the vectors.
        mode: How the store that is repeated searches.
    """

    def __init__(
        self, dsn: str, embeddings: Embeddings, dims: int, *, mode: SearchMode = "vector"
    ) -> None:
        self._store = memkit_store(dsn, embeddings, dims, mode=mode, cursor_factory=_Noting)
        self._stored = Stored(self._store)
        self._statements: dict[int, _Statements] = {}
        self._calls: list[Call] = []  # keeps the ids of the calls taken down
        # The last one used comes first, so that a single caller uses one.
        self._free: LifoQueue[psycopg.Connection[Any]] = LifoQueue()
        for _ in range(WORKERS):
            connection = psycopg.connect(dsn, autocommit=True)
            register_vector(connection)
            self._free.put(connection)
        self._stored(GetOp((ROOT, "nobody"), "nothing"))  # the store checks its tables at first

    def note(self, calls: Sequence[Call]) -> None:
        """Take down what the store executes for each call.

        Reads are made twice and taken down the second time: the first one may start a time to live
        anew. Items that a put left are deleted again.
        """
        for call in calls:
            if id(call) in self._statements:
                continue
            if isinstance(call, PutOp) or type(call) is tuple:
                self._take(call)
                puts = (call,) if isinstance(call, PutOp) else cast("tuple[PutOp, ...]", call)
                self._store.batch([put._replace(value=None, ttl=None) for put in puts])
            else:
                self._stored(call)
                self._take(call)

    def _take(self, call: Call) -> None:
        statements: _Statements = []
        _noted.statements = statements
        try:
            self._stored(call)
        finally:
            _noted.statements = None
        assert statements, "the store executed nothing through a cursor"
        self._statements[id(call)] = statements
        self._calls.append(call)

    def __call__(self, call: Call) -> Any:
        """Execute what was taken down for a call and fetch the rows."""
        statements = self._statements[id(call)]
        connection = self._free.get()
        try:
            if len(statements) == 1:
                return _fetched(connection, statements)
            with connection.transaction():
                return _fetched(connection, statements)
        finally:
            self._free.put(connection)

    def close(self) -> None:
        """Close all connections."""
        while not self._free.empty():
            self._free.get().close()
        self._store.close()


def _fetched(connection: psycopg.Connection[Any], statements: _Statements) -> list[Any]:
    rows: list[Any] = []
    for query, params in statements:
        # Settings come several in one string, which cannot be prepared.
        cursor = connection.execute(query, params, prepare=params is not None)
        if cursor.description is not None:
            rows = cursor.fetchall()
    return rows
