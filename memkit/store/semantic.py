"""SemanticStore: a LangGraph store on Postgres and pgvector."""

import asyncio
import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from types import TracebackType
from typing import Any, Literal, TypeAlias, TypeVar, cast

import psycopg
from langchain_core.embeddings import Embeddings
from langgraph.store.base import (
    NOT_PROVIDED,
    BaseStore,
    IndexConfig,
    InvalidNamespaceError,
    Item,
    NotProvided,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
    TTLConfig,
    ensure_embeddings,
)
from langgraph.store.base.embed import AEmbeddingsFunc, EmbeddingsFunc
from psycopg.rows import tuple_row

from memkit.db.database import Database, Transaction, Work
from memkit.db.migrate import migrate, verify
from memkit.db.pool import Connection, PoolConfig, pool_size, translated
from memkit.db.traces import Found, search
from memkit.effects import Body, EmbedTexts, PutIf, StoreOp, ThreadSearch, arun, run
from memkit.errors import ConfigError, VersionConflict
from memkit.store import meta, reads, tenants, threads, writes
from memkit.store import namespace as ns
from memkit.store.erase import Erased, erase
from memkit.store.indexes import Built, Indexes, settings
from memkit.store.merge import Merger, can_merge
from memkit.store.plan import (
    SEARCH_MODES,
    Address,
    Batch,
    Passage,
    SearchMode,
    Statement,
    plan,
)
from memkit.store.search import Boosts, Reach, ranked
from memkit.store.sweep import Sweeper
from memkit.store.text import Languages
from memkit.store.vectors import Distance, VectorSpace
from memkit.store.versions import DEFAULT_RETENTION, History, ItemVersion, Retention, retention

T = TypeVar("T")
Cursor: TypeAlias = psycopg.Cursor[Any]
Embed = Embeddings | EmbeddingsFunc | AEmbeddingsFunc | str


class SemanticIndexConfig(IndexConfig, total=False):
    """LangGraph's IndexConfig, and what SemanticStore knows besides."""

    distance_type: Distance
    """What ranks in mode "vector"."""
    ann_index_config: Mapping[str, Any]
    """As PostgresStore takes it, and of it: `vector_type` is "halfvec", the default, or "vector"
    for full precision; `kind` "flat" never builds an index. Which index is built is measured."""
    boosts: Boosts
    """What counts beside meaning and words: recency, importance."""
    language: str
    """The text search configuration for words, "english" by default; "simple" stems nothing."""
    language_field: str
    """The field of a value that names the language of its texts, where it does."""


@dataclass(frozen=True, slots=True)
class EmbedQueries:
    """An effect: embed texts as queries, one call each; the answer is one list of floats each."""

    embeddings: Embeddings
    queries: Sequence[str]

    def run(self) -> Any:
        """Call `embed_query` for each."""
        return [self.embeddings.embed_query(query) for query in self.queries]

    async def arun(self) -> Any:
        """Call `aembed_query` for all at once."""
        return await asyncio.gather(*map(self.embeddings.aembed_query, self.queries))


@dataclass(frozen=True, slots=True)
class Ranking:
    """How the queries of a batch rank: their mode, the language of their words, their vectors."""

    mode: SearchMode | None
    language: str | None
    vectors: Mapping[str, Any]


class SemanticStore(BaseStore):
    """A BaseStore on Postgres with pgvector; one object serves sync and async callers.

    It behaves as InMemoryStore does on JSON values, and besides: items with a time to live are
    gone once it is over, a search without a query gives the newest first, and an ordering filter
    matches numbers only and never raises. `batch` is one transaction: all of it or nothing.

    Args:
        conninfo: A PostgreSQL connection string.
        index: What to index, as LangGraph's IndexConfig; None ignores queries, unless
            `search_mode` is "text", which needs no embeddings.
        ttl: LangGraph's TTLConfig. Expired items are never shown, whatever `omit_expired` says.
        search_mode: "hybrid" fuses vectors and words, "vector" ranks as PostgresStore does,
            "text" gives only items that share a word with the query.
        pool_config: Bounds of the connection pool.
        history: How long superseded versions are kept: a timedelta, "30d" or "P30D"; True for ever,
            False or None not at all. All stores of a database should agree, since each sweeps by
            its own. What had a time to live is gone from the history too once that is over.

    Raises:
        StoreError: The address is wrong or the database cannot be reached.
        ConfigError: The settings do not fit together.

    Example:
        with SemanticStore.open("postgresql://...", embed=embeddings, dims=384) as store:
            store.setup()
            store.put(("users", "ann", "facts"), "tea", {"text": "Ann drinks green tea."})
            store.search(("users", "ann"), query="what does she drink?")
    """

    __slots__ = (
        "_boosts",
        "_database",
        "_fields",
        "_history",
        "_indexes",
        "_is_distributed",
        "_is_secured",
        "_language_field",
        "_languages",
        "_merger",
        "_resources",
        "_space",
        "_sweeper",
        "dims",
        "embeddings",
        "index_config",
        "search_mode",
        "ttl_config",
    )

    supports_ttl = True
    supports_versions = True
    supports_threads = True

    def __init__(
        self,
        conninfo: str,
        *,
        index: SemanticIndexConfig | IndexConfig | None = None,
        ttl: TTLConfig | None = None,
        search_mode: SearchMode = "hybrid",
        pool_config: PoolConfig | None = None,
        history: Retention = DEFAULT_RETENTION,
    ) -> None:
        if search_mode not in SEARCH_MODES:
            raise ConfigError(_unknown_mode(search_mode))
        self.search_mode: SearchMode = search_mode
        self.ttl_config = ttl
        self.index_config = index
        self.embeddings: Embeddings | None = None
        self.dims: int | None = None
        self._fields: tuple[str, ...] | None = None
        self._space: VectorSpace | None = None
        self._is_secured = self._is_distributed = False
        self._languages = Languages("english", frozenset(("english",)))
        self._language_field: str | None = None
        self._boosts = Boosts()
        if index is not None:
            self._configure(index)
        elif search_mode == "text":
            self._fields = ("$",)
        self._resources = contextlib.ExitStack()
        self._database = Database(conninfo, pool_config=pool_config, check=self._check)
        self._history = History(self._database, retention(history), self._named)
        self._merger = Merger(lambda ops: arun(self._body(ops)), pool_size(pool_config))
        self._sweeper = Sweeper(self._database, self._history, self._named)
        self._indexes = Indexes(self._database, self._space, used=_may_index(index))
        self._database.connect().close()  # fails now rather than at the first turn

    def _configure(self, index: SemanticIndexConfig | IndexConfig) -> None:
        fields: str | Sequence[str] = index.get("fields") or ["$"]
        self._fields = (fields,) if isinstance(fields, str) else tuple(fields)
        more = cast("SemanticIndexConfig", index)
        # Which ones the server knows is asked when it is first needed.
        self._languages = replace(self._languages, default=more.get("language", "english"))
        self._language_field = more.get("language_field")
        self._boosts = more.get("boosts", self._boosts)
        distance = cast("Distance", index.get("distance_type", "cosine"))
        if distance != "cosine" and self.search_mode == "hybrid":
            msg = (
                f"hybrid search fuses cosine similarity with words; for distance_type="
                f"{distance!r} pass search_mode='vector'"
            )
            raise ConfigError(msg)
        if index.get("embed") is None:
            if self.search_mode != "text":
                raise ConfigError(_no_embeddings(self.search_mode))
            return
        ann: Any = index.get("ann_index_config") or {}
        vector_type = ann.get("vector_type", "halfvec")
        self._space = VectorSpace(cast("int", index.get("dims")), distance, vector_type)
        self.dims = self._space.dims
        self.embeddings = ensure_embeddings(index["embed"])

    @classmethod
    def open(
        cls,
        dsn: str | None = None,
        *,
        embed: Embed | None = None,
        dims: int | None = None,
        fields: Sequence[str] = ("text",),
        search_mode: SearchMode = "hybrid",
        ttl: TTLConfig | None = None,
        pool_config: PoolConfig | None = None,
        history: Retention = DEFAULT_RETENTION,
    ) -> "SemanticStore":
        """Open a store; use it as `with` or `async with`, or call `close()`.

        Args:
            dsn: A PostgreSQL connection string; None starts the embedded Postgres of
                `memkit.local`, with its embeddings unless `embed` is given.
            embed: LangChain embeddings, a function, or a name for `init_embeddings`.
            dims: The length of the embeddings; None measures it by embedding one text.
            fields: What is indexed of a value; facts and turns carry "text".
            search_mode: As in the class.
            ttl: As in the class.
            pool_config: As in the class.
            history: As in the class.

        Raises:
            ConfigError: A `dsn` without `embed`, where the search mode needs embeddings.
            StoreError: The address is wrong or the database cannot be reached.
        """
        if search_mode not in SEARCH_MODES:
            raise ConfigError(_unknown_mode(search_mode))
        with contextlib.ExitStack() as resources:
            if dsn is None:
                from memkit.local import embeddings as local_embeddings
                from memkit.local import postgres

                if embed is None and search_mode != "text":
                    embed = local_embeddings()
                dsn = resources.enter_context(postgres())
            elif embed is None and search_mode != "text":
                raise ConfigError(_no_embeddings(search_mode))
            index: SemanticIndexConfig = {"fields": list(fields)}
            if embed is not None:
                embeddings = ensure_embeddings(embed)
                index["embed"] = embeddings
                index["dims"] = dims if dims is not None else len(embeddings.embed_query("dims"))
            store = cls(
                dsn,
                index=index,
                ttl=ttl,
                search_mode=search_mode,
                pool_config=pool_config,
                history=history,
            )
            store._resources = resources.pop_all()
        return store

    @classmethod
    def from_conn_string(
        cls,
        conn_string: str,
        *,
        pipeline: bool = False,  # noqa: ARG003 - PostgresStore's; a batch is few statements here
        pool_config: PoolConfig | Mapping[str, Any] | None = None,
        index: SemanticIndexConfig | IndexConfig | None = None,
        ttl: TTLConfig | None = None,
        search_mode: SearchMode = "hybrid",
        history: Retention = DEFAULT_RETENTION,
    ) -> "SemanticStore":
        """Open a store with the arguments of PostgresStore.

        Raises:
            StoreError: The address is wrong or the database cannot be reached.
            ConfigError: The settings do not fit together.
        """
        return cls(
            conn_string,
            index=index,
            ttl=ttl,
            search_mode=search_mode,
            pool_config=cast("PoolConfig | None", pool_config),
            history=history,
        )

    # Lifecycle

    def setup(self, *, distributed: bool = False, row_level_security: bool = False) -> None:
        """Create or upgrade the tables; harmless when repeated, and from many processes at once.

        Args:
            distributed: Distribute the tables by tenant on a Citus cluster.
            row_level_security: Let Postgres itself hide every tenant that a connection has not
                named, from roles other than superusers. The store names what it asks for.

        Raises:
            MigrationError: The database has no pgvector, or its tables are not this version's.
            DimensionMismatch: Its vectors have another length than these embeddings.
        """
        with (
            translated(self._database.conninfo),
            self._database.connect() as connection,
        ):
            migrate(connection)
            if self._space is not None:
                meta.set_column_type(connection, self._space)
            if distributed:
                tenants.distribute(connection)
            if row_level_security:
                tenants.secure(connection)
            self._claim(connection)

    async def asetup(self, *, distributed: bool = False, row_level_security: bool = False) -> None:
        """Do what `setup` does, on a thread."""
        work = partial(self.setup, distributed=distributed, row_level_security=row_level_security)
        await self._database.in_thread(work)

    def close(self) -> None:
        """Stop the sweeper and close every connection; a second call does nothing."""
        if self._database.is_inherited:
            return
        self.stop_ttl_sweeper()
        self._indexes.close()
        self._database.close()
        self._resources.close()

    def __enter__(self) -> "SemanticStore":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> "SemanticStore":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Not on a thread of the pool, whose end close() waits for.
        await asyncio.to_thread(self.close)

    # Reads and writes

    def batch(self, ops: Iterable[StoreOp]) -> list[Result]:
        """Run operations in one transaction: the reads first, then the writes.

        Args:
            ops: LangGraph's operations and `memkit.effects.PutIf`. Of several puts of one key the
                last counts; beside a PutIf no other put of its key is allowed.

        Returns:
            One result per operation, in their order. Items have a `version`.

        Raises:
            VersionConflict: An item has not the version that a PutIf asks for; nothing was written.
            CommitUnknown: The connection broke while it committed: all was written, or nothing.
            StoreError: Nothing was written; the message says why.
            ConfigError: An operation makes no sense; nothing was written.

        Cost:
            One embedding call for all texts and one per distinct query, before a connection is
            taken; one statement for all gets, one or two per search, at most six for all writes,
            and for those with a version up to two per tenant more. On Citus all are per tenant.
        """
        return run(self._body(list(ops)))

    async def abatch(self, ops: Iterable[StoreOp]) -> list[Result]:
        """Do what `batch` does without blocking the event loop.

        Calls that wait for a connection are run together, where they only get and put: each is
        still all or nothing, and fails for no other's sake.
        """
        ops = list(ops)
        if can_merge(ops):
            return await self._merger(cast("Sequence[Op]", ops))
        return await arun(self._body(ops))

    def put(
        self,
        namespace: tuple[str, ...],
        key: str,
        value: Mapping[str, Any],
        index: Literal[False] | list[str] | None = None,
        *,
        ttl: float | NotProvided | None = NOT_PROVIDED,
        if_version: int | None = None,
    ) -> None:
        """Store an item.

        Args:
            namespace: Where to store it.
            key: Its key there.
            value: What JSON can say; None deletes.
            index: The fields to index; None takes the store's, False indexes nothing.
            ttl: Minutes that it lives; None for ever; not given: the TTLConfig's default.
            if_version: Put only if the item still has this version (`get(...).version`; every put
                raises it by one), 0: only if there is none. None asks for nothing. A deleted item
                that is put anew goes on counting while its history is kept, and else starts at 1.

        Raises:
            VersionConflict: The item has another version; nothing was written.
        """
        if if_version is None:
            super().put(namespace, key, value, index, ttl=ttl)
        else:
            self.batch([self._put_if(namespace, key, value, index, ttl, if_version)])

    async def aput(
        self,
        namespace: tuple[str, ...],
        key: str,
        value: Mapping[str, Any],
        index: Literal[False] | list[str] | None = None,
        *,
        ttl: float | NotProvided | None = NOT_PROVIDED,
        if_version: int | None = None,
    ) -> None:
        """Do what `put` does without blocking the event loop."""
        if if_version is None:
            await super().aput(namespace, key, value, index, ttl=ttl)
        else:
            await self.abatch([self._put_if(namespace, key, value, index, ttl, if_version)])

    def _put_if(  # noqa: PLR0917 - passed on in BaseStore's order
        self,
        namespace: tuple[str, ...],
        key: str,
        value: Mapping[str, Any],
        index: Literal[False] | list[str] | None,
        ttl: float | NotProvided | None,
        if_version: int,
    ) -> PutIf:
        # As BaseStore.put has it; the labels are checked in the batch.
        if not namespace or namespace[0] == "langgraph":
            msg = f"a namespace has labels, and the first is not 'langgraph'; got {namespace!r}"
            raise InvalidNamespaceError(msg)
        if isinstance(ttl, NotProvided):
            ttl = (self.ttl_config or {}).get("default_ttl")
        put = PutOp(namespace, str(key), cast("dict[str, Any]", value), index, ttl)
        return PutIf(put, if_version)

    def get(
        self,
        namespace: tuple[str, ...],
        key: str,
        *,
        refresh_ttl: bool | None = None,
        as_of: datetime | None = None,
    ) -> Item | None:
        """Return an item, None if there is none.

        Args:
            namespace: Where it is stored.
            key: Its key there.
            refresh_ttl: Whether its time to live starts anew; None asks the TTLConfig.
            as_of: A moment, with a time zone: what stood then. What had a time to live that is over
                by now stood at no moment; a moment to come gives what stands now.

        Raises:
            ConfigError: The moment has no time zone, or lies before what `history` keeps.
        """
        if as_of is None:
            return super().get(namespace, key, refresh_ttl=refresh_ttl)
        return run(self._history.get(namespace, key, as_of))

    async def aget(
        self,
        namespace: tuple[str, ...],
        key: str,
        *,
        refresh_ttl: bool | None = None,
        as_of: datetime | None = None,
    ) -> Item | None:
        """Do what `get` does without blocking the event loop."""
        if as_of is None:
            return await super().aget(namespace, key, refresh_ttl=refresh_ttl)
        return await arun(self._history.get(namespace, key, as_of))

    def history(
        self, namespace: tuple[str, ...], key: str, *, limit: int | None = None
    ) -> list[ItemVersion]:
        """Return the versions of an item that are kept, the newest first, the current one included.

        Args:
            namespace: Where it is stored.
            key: Its key there.
            limit: The most versions to return; None for all.

        Returns:
            Items with their `version`; each stood from `updated_at` until `ended_at`, which is None
            for the current one. A deleted item has no current one.
        """
        return run(self._history.versions(namespace, key, limit))

    async def ahistory(
        self, namespace: tuple[str, ...], key: str, *, limit: int | None = None
    ) -> list[ItemVersion]:
        """Do what `history` does without blocking the event loop."""
        return await arun(self._history.versions(namespace, key, limit))

    def search(
        self,
        namespace_prefix: tuple[str, ...],
        /,
        *,
        query: str | None = None,
        filter: dict[str, Any] | None = None,  # noqa: A002 - BaseStore's name
        limit: int = 10,
        offset: int = 0,
        refresh_ttl: bool | None = None,
        mode: SearchMode | None = None,
        language: str | None = None,
        as_of: datetime | None = None,
    ) -> list[SearchItem]:
        """Search a namespace and all below it.

        Args:
            namespace_prefix: Where to search.
            query: What to look for; None or "" gives the newest first.
            filter: Conditions on the value.
            limit: The most items to return.
            offset: How many to skip; pages neither lose nor repeat an item.
            refresh_ttl: Whether a hit starts its time to live anew; None asks the TTLConfig.
            mode: The search mode of this one call.
            language: Of the query's words; None takes the store's.
            as_of: A moment, as in `get`: what stood then, the newest first; without a query, since
                vectors and words of old versions are not kept.

        Returns:
            Items, best first; those without an indexed text come last, with score None.

        Raises:
            ConfigError: The mode needs an index that this store lacks, the filter is wrong, or
                `as_of` is, or stands beside a query.
        """
        op = self._search_op(namespace_prefix, filter, limit, offset, query, refresh_ttl)
        if as_of is not None:
            return cast("list[SearchItem]", run(self._history.search(op, as_of)))
        return cast("list[SearchItem]", run(self._body([op], mode, language))[0])

    async def asearch(
        self,
        namespace_prefix: tuple[str, ...],
        /,
        *,
        query: str | None = None,
        filter: dict[str, Any] | None = None,  # noqa: A002 - BaseStore's name
        limit: int = 10,
        offset: int = 0,
        refresh_ttl: bool | None = None,
        mode: SearchMode | None = None,
        language: str | None = None,
        as_of: datetime | None = None,
    ) -> list[SearchItem]:
        """Do what `search` does without blocking the event loop."""
        op = self._search_op(namespace_prefix, filter, limit, offset, query, refresh_ttl)
        if as_of is not None:
            return cast("list[SearchItem]", await arun(self._history.search(op, as_of)))
        return cast("list[SearchItem]", (await arun(self._body([op], mode, language)))[0])

    def _search_op(  # noqa: PLR0917 - passed on in BaseStore's order
        self,
        prefix: tuple[str, ...],
        filter_: dict[str, Any] | None,
        limit: int,
        offset: int,
        query: str | None,
        refresh_ttl: bool | None,
    ) -> SearchOp:
        if refresh_ttl is None:
            refresh_ttl = (self.ttl_config or {}).get("refresh_on_read", True)
        return SearchOp(prefix, filter_, limit, offset, query, refresh_ttl)

    def _body(
        self,
        ops: Sequence[StoreOp],
        mode: SearchMode | None = None,
        language: str | None = None,
    ) -> Body[list[Result]]:
        mode = self._mode(mode)
        batch = plan(ops, self._fields, self._language_field)
        vectors: list[Any] = []
        queries: dict[str, Any] = {}
        if self.embeddings is not None:
            if batch.passages:
                # What a model was paid for once is not embedded again.
                read = self._named(partial(self._embedded, batch.passages), tenants.named_by(batch))
                by_text = yield Transaction(self._database, read, writes=False)
                texts = list(dict.fromkeys(p.text for p in batch.passages if p.text not in by_text))
                if texts:
                    by_text |= self._vectors(texts, (yield EmbedTexts(self.embeddings, texts)))
                vectors = [by_text[passage.text] for passage in batch.passages]
            asked = [op.query for _, op in batch.searches if op.query]
            asked += [search.query for _, search in batch.threads if search.query]
            asked = list(dict.fromkeys(asked))
            if asked and mode in ("hybrid", "vector"):
                queries = self._vectors(asked, (yield EmbedQueries(self.embeddings, asked)))

        def work(connection: Connection) -> list[Result]:
            return self._execute(connection, batch, vectors, Ranking(mode, language, queries))

        named = self._named(work, tenants.named_by(batch))
        results: list[Result] = yield Transaction(self._database, named, writes=bool(batch.writes))
        return results

    def _named(self, work: Work[T], name: Statement) -> Work[T]:
        """Return work that names its tenants first, where the database hides those not named."""

        def named(connection: Connection) -> T:
            if not self._is_secured:
                return work(connection)
            with connection.transaction():
                connection.execute(*name)
                return work(connection)

        return named

    def _mode(self, mode: SearchMode | None) -> SearchMode | None:
        """Return how queries rank in this call; None where nothing is indexed."""
        if mode is None:
            return self.search_mode if self._fields is not None else None
        if mode not in SEARCH_MODES:
            raise ConfigError(_unknown_mode(mode))
        if self._fields is None:
            msg = f"mode={mode!r} needs indexed texts; open the store with index=... or embed=..."
            raise ConfigError(msg)
        if mode != "text" and self.embeddings is None:
            raise ConfigError(_no_embeddings(mode))
        if mode == "hybrid" and self._space is not None and self._space.distance != "cosine":
            msg = (
                "mode='hybrid' needs distance_type='cosine'; this store has "
                f"{self._space.distance!r}"
            )
            raise ConfigError(msg)
        return mode

    def _vectors(self, texts: Sequence[str], embedded: Any) -> dict[str, Any]:
        """Check what the embeddings gave before anything is written."""
        space = cast("VectorSpace", self._space)
        return dict(zip(texts, space.encode_all(embedded, texts), strict=True))

    def _embedded(self, passages: Sequence[Passage], connection: Connection) -> dict[str, Any]:
        """Return the vectors of those texts that stand where they are to be put."""
        space = cast("VectorSpace", self._space)
        with connection.cursor(row_factory=tuple_row, binary=True) as cursor:
            return {
                text: vector
                for statement in reads.embedded(passages, space.name, apart=self._is_distributed)
                for text, vector in cursor.execute(*statement).fetchall()
            }

    def _execute(
        self,
        connection: Connection,
        batch: Batch,
        vectors: Sequence[Any],
        ranking: Ranking,
    ) -> list[Result]:
        with connection.cursor(row_factory=tuple_row) as cursor:
            results, due = self._read(cursor, batch, ranking)
            for statement in writes.take_turns(batch):
                cursor.execute(*statement)
            history = self._history.is_kept
            for statement, asked in writes.write_if(batch, history=history):
                written = {Address(*row) for row in cursor.execute(*statement).fetchall()}
                if others := [address for address in asked if address not in written]:
                    first = others[0]
                    row = cursor.execute(writes.VERSION, first._asdict()).fetchone()
                    version = row[0] if row else None
                    raise VersionConflict(
                        writes.conflict(first, batch.writes[first], version, len(others) - 1)
                    )
            fresh = self._history.write(cursor, batch, apart=self._is_distributed)
            for statement in writes.write(
                batch,
                vectors,
                space=self._space,
                languages=self._languages,
                history=history,
                fresh=fresh,
                apart=self._is_distributed,
            ):
                cursor.execute(*statement)
            # Last, and without waiting for anyone, so that readers never take part in a deadlock.
            for statement in writes.refresh(due - batch.writes.keys()):
                cursor.execute(*statement)
        return results

    def _read(
        self, cursor: Cursor, batch: Batch, ranking: Ranking
    ) -> tuple[list[Result], set[Address]]:
        """Return the results of a batch's reads, and the items whose time is to start anew."""
        results: list[Result] = [None] * batch.size
        due: set[Address] = set()
        if batch.gets:
            items = {
                hit.address: hit
                for statement in reads.get([op for _, op in batch.gets], apart=self._is_distributed)
                for hit in map(reads.found, cursor.execute(*statement).fetchall())
            }
            for place, get in batch.gets:
                hit = items.get(Address.of(get.namespace, get.key))
                if hit is not None:
                    results[place] = reads.as_item(hit.item)
                    if get.refresh_ttl and hit.is_due:
                        due.add(hit.address)
        for place, op in batch.searches:
            hits = self._hits(cursor, op, ranking)
            results[place] = list[SearchItem](hit.item for hit in hits)
            if op.refresh_ttl:
                due.update(hit.address for hit in hits if hit.is_due)
        for place, around in batch.threads:
            results[place] = self._around(cursor, around, ranking)
        for place, listing in batch.listings:
            rows = cursor.execute(
                *reads.list_namespaces(listing, walk=not self._is_distributed)
            ).fetchall()
            results[place] = reads.namespaces(rows)
        return results, due

    def _hits(self, cursor: Cursor, op: SearchOp, ranking: Ranking) -> list[reads.Found]:
        """Return what a search finds: the next statement is for where one gives too few."""
        prefix, reach, statements = op.namespace_prefix, None, [reads.browse(op)]
        if op.query and ranking.mode is not None:
            reach = self._indexes.reach(prefix, cursor.connection)
            statements = ranked(
                op,
                ranking.mode,
                space=self._space,
                vector=ranking.vectors.get(op.query),
                language=self._languages.checked(ranking.language),
                reach=reach,
                boosts=self._boosts,
            )
        started = time.perf_counter()
        with self._planned(cursor, prefix, reach) as prepare:
            hits = _enough(cursor, statements, op.limit, prepare=prepare)
        if op.query and ranking.mode is not None and reach is None:
            self._indexes.noticed(prefix, time.perf_counter() - started)
        return hits

    def _around(self, cursor: Cursor, op: ThreadSearch, ranking: Ranking) -> list[SearchItem]:
        """Return what a search in threads finds; nothing where nothing is indexed."""
        if ranking.mode is None:
            return []
        prefix = op.namespace_prefix
        vector = ranking.vectors.get(op.query)
        reach = self._indexes.reach(prefix, cursor.connection)
        statement = threads.around(
            op,
            space=None if vector is None else self._space,
            vector=vector,
            language=self._languages.checked(ranking.language),
            reach=reach,
        )
        started = time.perf_counter()
        with self._planned(cursor, prefix, reach) as prepare:
            rows = cursor.execute(*statement, prepare=prepare).fetchall()
        if reach is None:
            self._indexes.noticed(prefix, time.perf_counter() - started)
        return [reads.item(row) for row in rows]

    @contextlib.contextmanager
    def _planned(
        self, cursor: Cursor, prefix: Sequence[str], reach: Reach | None
    ) -> Iterator[bool | None]:
        """Hold what a search needs: a tenant's without indexes is planned once, others each time.

        Yields:
            Whether the statement is to be prepared.
        """
        if reach is None and len(prefix) >= ns.TENANT_LABELS:
            yield None
            return
        with cursor.connection.transaction():
            cursor.execute(settings(reach, distributed=self._is_distributed))
            yield False

    # The tables behind it

    def build_indexes(self) -> list[Built]:
        """Build now what slow searches would lead to in the background: indexes where they pay.

        Returns:
            What was built, per tenant with many items and for all of them.

        Raises:
            StoreError: The database refuses, or cannot be reached.
        """
        return self._indexes.build()

    async def abuild_indexes(self) -> list[Built]:
        """Do what `build_indexes` does without blocking the event loop."""
        return await self._database.in_thread(self.build_indexes)

    def _check(self, connection: Connection) -> None:
        verify(connection)
        self._claim(connection)

    def _claim(self, connection: Connection) -> None:
        self._languages = meta.languages(connection, self._languages.default)
        self._is_secured = tenants.is_secured(connection)
        self._is_distributed = tenants.is_distributed(connection)
        if self._space is not None and self.embeddings is not None:
            self._space = meta.claim(connection, self._space, self.embeddings, self._database.place)
            self._indexes.space = self._space

    def stored_dims(self) -> int | None:
        """Return the length of the vectors in the database, None if it never held any.

        Raises:
            StoreError: The database cannot be reached, or was not set up.
        """
        return self._database.run(meta.stored_dims)

    # What is to be gone

    def erase(self, namespace: tuple[str, ...], *, dry_run: bool = False) -> Erased:
        """Delete all that is below a namespace, old versions and what expired included.

        Unlike puts of None it leaves nothing in the history. Cut off, the same call goes on.

        Args:
            namespace: At least two labels, such as ("users", "ann"): a tenant or what is below it.
            dry_run: Only count.

        Returns:
            What was deleted.

        Raises:
            ConfigError: The namespace has fewer labels.
        """
        return erase(self._database, self._named, namespace, dry_run=dry_run)

    async def aerase(self, namespace: tuple[str, ...], *, dry_run: bool = False) -> Erased:
        """Do what `erase` does without blocking the event loop."""
        return await self._database.in_thread(partial(self.erase, namespace, dry_run=dry_run))

    def find_text(self, texts: Sequence[str]) -> list[Found]:
        """Find texts in every table of the database that the store can see.

        Args:
            texts: What to look for.

        Returns:
            For each table, column and text that it holds how many rows do.

        Cost:
            A scan of every table per text.
        """
        return self._database.run(self._named(partial(_found, texts), tenants.ALL))

    async def afind_text(self, texts: Sequence[str]) -> list[Found]:
        """Do what `find_text` does without blocking the event loop."""
        return await self._database.in_thread(self.find_text, texts)

    # Time to live

    def sweep_ttl(self) -> int:
        """Delete what has expired and the versions no longer kept; return how many items expired.

        Cost:
            Short transactions of at most 1,000 rows of a tenant each; rows in use are left for
            later.
        """
        return self._sweeper.sweep()

    async def asweep_ttl(self) -> int:
        """Do what `sweep_ttl` does without blocking the event loop."""
        return await self._database.in_thread(self.sweep_ttl)

    def start_ttl_sweeper(self, sweep_interval_minutes: float | None = None) -> Future[None]:
        """Sweep in the background from now on; a failed sweep is logged and tried again.

        Args:
            sweep_interval_minutes: Default: the TTLConfig's, else 5.

        Returns:
            A future that is done once the sweeper has stopped. Unlike PostgresStore's it starts
            without a TTLConfig too: a put may say how long it lives, and old versions go.
        """
        configured = (self.ttl_config or {}).get("sweep_interval_minutes")
        return self._sweeper.start(sweep_interval_minutes or configured)

    def stop_ttl_sweeper(self, timeout: float | None = None) -> bool:
        """Stop the background sweeper and wait for it.

        Args:
            timeout: Seconds to wait at most; None waits for the sweep that is under way.

        Returns:
            Whether it has stopped.
        """
        return self._sweeper.stop(timeout)


def _found(texts: Sequence[str], connection: Connection) -> list[Found]:
    searching = search(texts)
    with connection.cursor(row_factory=tuple_row) as cursor:
        try:
            query = next(searching)
            while True:
                rows = cursor.execute(query.sql.encode(), query.params, prepare=False).fetchall()
                query = searching.send(rows)
        except StopIteration as stop:
            return list(stop.value)


def _enough(
    cursor: Cursor, statements: Iterable[Statement], limit: int, *, prepare: bool | None = None
) -> list[reads.Found]:
    """Return what the first statement finds that gives enough; the last gives all there is."""
    rows: list[Any] = []
    for statement in statements:
        rows = cursor.execute(*statement, prepare=prepare).fetchall()
        if len(rows) == limit:
            break
    return [reads.found(row) for row in rows]


def _may_index(index: Mapping[str, Any] | None) -> bool:
    return ((index or {}).get("ann_index_config") or {}).get("kind") != "flat"


def _unknown_mode(mode: object) -> str:
    return f"the search mode is one of {', '.join(SEARCH_MODES)}, not {mode!r}"


def _no_embeddings(mode: str) -> str:
    return (
        f"search mode {mode!r} needs embeddings: pass embed= (LangChain embeddings, a function "
        "or a name such as 'openai:text-embedding-3-small'), or search_mode='text'"
    )
