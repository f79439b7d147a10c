"""Moving the vectors of a store to other embeddings while it is used.

The new vectors get a column of their own beside the old one. Processes that run with the old
embeddings go on reading and writing the old column; once all passages have a new vector, a process
that opens the store with the new embeddings gets the new column. When no old process is left, a
last call makes the vectors that those did not write, and drops the old column. Every step may be
cut off at any moment, and the same call goes on.
"""

# ruff: noqa: S608 - names of columns are checked, all else is a parameter

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

from langchain_core.embeddings import Embeddings
from langgraph.store.base import ensure_embeddings
from langgraph.store.base.embed import EmbeddingsFunc
from pgvector.psycopg import register_vector
from psycopg import errors as pg
from psycopg import sql
from psycopg.rows import tuple_row

from memkit.db.database import Database
from memkit.db.migrate import verify
from memkit.db.pool import Connection, connect, place, translated
from memkit.errors import ConfigError, StoreError
from memkit.store import meta, tenants
from memkit.store.indexes import Indexes, distance_of, drop_all
from memkit.store.plan import Address, Passage, Statement, by_group
from memkit.store.vectors import FIRST_COLUMN, VectorSpace, VectorType

# Whoever waits for a lock makes all others wait who want what it holds: briefly, and again.
_LOCK_TIMEOUT_S, _ATTEMPTS = 1, 60
_LOCK_KEY = 0x7265656D626564  # "reembed"
_IN_THE_WAY = (pg.LockNotAvailable, pg.DeadlockDetected, pg.SerializationFailure)

_NEXT = """
SELECT tenant, namespace, key, path, text FROM memkit_passages
WHERE (tenant, namespace, key, path) > (%s, %s, %s, %s) AND {column} IS NULL
ORDER BY tenant, namespace, key, path LIMIT %s
"""
# A text that was changed meanwhile is seen again, as it is then.
_SET = """
UPDATE memkit_passages p SET {column} = asked.vector
FROM unnest(%(tenants)b::text[], %(namespaces)b::text[], %(keys)b::text[], %(paths)b::text[],
    %(texts)b::text[], %(vectors)b::{type}[])
    AS asked (tenant, namespace, key, path, text, vector)
WHERE p.tenant = {{tenant}} AND p.namespace = asked.namespace AND p.key = asked.key
    AND p.path = asked.path AND p.text = asked.text AND p.{column} IS NULL
"""
_COLUMNS = f"""
SELECT attname::text FROM pg_attribute
WHERE attrelid = 'memkit_passages'::regclass AND NOT attisdropped
    AND attname ~ '^{FIRST_COLUMN}(_[0-9]+)?$'
"""


@dataclass(frozen=True, slots=True)
class Move:
    """How far a move is.

    Attributes:
        model: Whose vectors are made.
        column: Where they are put.
        missing: Passages that had no vector of the model when the call began.
        embedded: Passages that got one in this call.
        is_switched: Whether the store counts as the model's: who opens it must have its embeddings.
        dropped: Columns of earlier models that this call removed.
    """

    model: str
    column: str
    missing: int
    embedded: int = 0
    is_switched: bool = False
    dropped: tuple[str, ...] = ()


def reembed(
    conninfo: str,
    embed: Embeddings | EmbeddingsFunc | str,
    *,
    dims: int | None = None,
    model: str | None = None,
    vector_type: VectorType | None = None,
    batch_size: int = 500,
    finish: bool = False,
    progress: Callable[[Move], None] | None = None,
) -> Move:
    """Give every passage a vector of other embeddings, and make them the store's.

    Called again after that it makes the vectors of what old processes wrote since. Until then new
    ones find that by its words alone, as old ones do what new ones write.

    Args:
        conninfo: The store's database; the role owns its tables.
        embed: The new embeddings: LangChain's, a function, or a name for `init_embeddings`.
        dims: The length of their vectors; None measures it by embedding one text.
        model: The model's name; None takes what the embeddings say of themselves.
        vector_type: pgvector's type of the new vectors; None takes the one of the present ones.
        batch_size: Texts per call of the embeddings.
        finish: Drop the vectors of earlier models at the end: a process that still uses them gets
            DimensionMismatch from then on.
        progress: Called after each batch.

    Returns:
        What was done.

    Raises:
        ConfigError: The embeddings do not name their model, or a move to others is under way.
        StoreError: The database cannot be reached or refuses, or another process moves it now.
            What the embeddings raise passes; what was embedded before is kept either way.

    Cost:
        One call of the embeddings and two short transactions per batch. Adding and dropping a
        column locks the table for milliseconds. Indexes are built if the present vectors have any.
    """
    if batch_size < 1:
        msg = f"batch_size is the texts per call of the embeddings, at least 1, not {batch_size!r}"
        raise ConfigError(msg)
    embeddings = ensure_embeddings(embed)
    model = model or meta.model_of(embeddings)
    if model is None:
        msg = (
            "these embeddings do not name their model; pass model=..., so that a move that was "
            "cut off can be told from another one"
        )
        raise ConfigError(msg)
    if dims is None:
        dims = len(embeddings.embed_query("dims"))
    with _connected(conninfo) as connection:
        before = column = meta.column(connection)
        space = VectorSpace(dims, type=vector_type or _present_type(connection))
        target = {"model": model, "dims": dims, "type": space.type}
        is_current = _is_current(connection, model, space)
        if not is_current or finish:
            _refuse_other(connection, target)
        if not is_current:
            column = _column(connection, target)
        space = replace(space, name=column)
        filler = _Filler(connection, embeddings, space, batch_size, progress)
        filler.move = Move(model, column, filler.missing(), is_switched=is_current)
        filler.fill()
        if not is_current:
            _index(connection, conninfo, before, space)
            filler.fill()
            _switch(connection, model, space)
            filler.move = replace(filler.move, is_switched=True)
            filler.fill()
        if finish:
            others = [name for name in _columns(connection) if name != column]
            for name in others:
                _drop(connection, name)
            filler.move = replace(filler.move, dropped=tuple(others))
            filler.fill()
        return filler.move


def abandon(conninfo: str) -> bool:
    """Give up a move before the switch: drop what it made; return whether there was one.

    Raises:
        StoreError: The database cannot be reached or refuses, or another process moves it now.
    """
    with _connected(conninfo) as connection:
        moving = meta.get(connection, "moving")
        if moving is not None:
            _drop(connection, moving["column"])
        return moving is not None


@contextmanager
def _connected(conninfo: str) -> Iterator[Connection]:
    """Yield a connection in no transaction, to one process at a time."""
    with (
        translated(conninfo),
        closing(connect(conninfo)) as connection,
        # The lock is a transaction's, and not a session's, which PgBouncer would lend to others.
        closing(connect(conninfo)) as locked,
        locked.transaction(),
    ):
        verify(connection)
        locked.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        locked.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT_S}s'")
        try:
            # Without a parameter, so without a portal: its snapshot would last as the transaction
            # does, and indexes and vacuum would wait for it.
            locked.execute(f"SELECT pg_advisory_xact_lock({_LOCK_KEY})")
        except pg.LockNotAvailable as error:
            msg = f"another process is moving the vectors of {place(conninfo)}; wait for it"
            raise StoreError(msg) from error
        register_vector(connection)
        yield connection


def _is_current(connection: Connection, model: str, space: VectorSpace) -> bool:
    stored = meta.get(connection, "model"), meta.stored_dims(connection)
    type_ = meta.column_type(connection, meta.column(connection))
    return (*stored, type_) == (model, space.dims, space.type)


def _present_type(connection: Connection) -> VectorType:
    """Return the type of the vectors: of those that are made, or of those that are there."""
    moving = meta.get(connection, "moving")
    type_ = moving["type"] if moving else meta.column_type(connection, meta.column(connection))
    return cast("VectorType", type_)


def _refuse_other(connection: Connection, target: Mapping[str, Any]) -> None:
    """Refuse what would cross a move that is under way."""
    moving = meta.get(connection, "moving")
    if moving is not None and {name: moving[name] for name in target} != target:
        described = "{model!r} with {dims} dimensions as {type}"
        msg = (
            f"a move to {described.format(**moving)} is under way, and not to "
            f"{described.format(**target)}; go on with that one, or abandon it first"
        )
        raise ConfigError(msg)


def _column(connection: Connection, target: Mapping[str, Any]) -> str:
    """Return the column of a move's vectors, which is added if the move begins."""
    moving = meta.get(connection, "moving")
    if moving is not None:
        return str(moving["column"])
    numbers = [int(name.rpartition("_")[2]) for name in _columns(connection) if "_" in name]
    column = f"{FIRST_COLUMN}_{max(numbers, default=1) + 1}"
    add = sql.SQL("ALTER TABLE memkit_passages ADD COLUMN {} {}")
    with _briefly_locked(connection):
        connection.execute(add.format(sql.Identifier(column), sql.Identifier(target["type"])))
        meta.keep_in_row(connection, column)
        meta.put(connection, "moving", {**target, "column": column})
    return column


def _columns(connection: Connection) -> list[str]:
    """Return all columns of vectors."""
    with connection.cursor(row_factory=tuple_row) as cursor:
        return [name for (name,) in cursor.execute(_COLUMNS).fetchall()]


def _index(connection: Connection, conninfo: str, before: str, space: VectorSpace) -> None:
    """Build what new vectors need to be searched as fast as those before them."""
    statement = "SELECT FROM memkit_indexes WHERE vectors = %s LIMIT 1"
    if connection.execute(statement, (before,)).fetchone() is None:
        return  # small, or told to do without
    space = replace(space, distance=distance_of(connection, before) or space.distance)
    with closing(Database(conninfo, check=verify)) as database:
        Indexes(database, space, used=True).build(wait=True)


def _switch(connection: Connection, model: str, space: VectorSpace) -> None:
    with connection.transaction():
        meta.put(connection, "model", model)
        meta.put(connection, "dims", space.dims)
        meta.put(connection, "vectors", space.name)
        meta.put(connection, "moving", None)


def _drop(connection: Connection, column: str) -> None:
    """Drop a column, and with it the move to it, if there is one."""
    drop_all(connection, column)
    statement = sql.SQL("ALTER TABLE memkit_passages DROP COLUMN IF EXISTS {}")
    with _briefly_locked(connection):
        connection.execute(statement.format(sql.Identifier(column)))
        meta.put(connection, "moving", None)


@contextmanager
def _briefly_locked(connection: Connection) -> Iterator[None]:
    """Hold the table's lock for a transaction; whoever waits for it makes all others wait."""
    with connection.transaction():
        connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT_S}s'")
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                with connection.transaction():
                    connection.execute("LOCK TABLE memkit_passages IN ACCESS EXCLUSIVE MODE")
                break
            except pg.LockNotAvailable as error:
                if attempt == _ATTEMPTS:
                    raise StoreError(_busy(connection)) from error
                time.sleep(_LOCK_TIMEOUT_S)
        yield


def _busy(connection: Connection) -> str:
    return (
        f"others hold memkit_passages in database {connection.info.dbname!r} and let go of it in "
        f"none of {_ATTEMPTS} attempts; end the transaction that is open for so long (see "
        "pg_stat_activity), and call it again: it goes on"
    )


class _Filler:
    """Makes the vectors that are missing in a column."""

    move: Move

    def __init__(
        self,
        connection: Connection,
        embeddings: Embeddings,
        space: VectorSpace,
        batch_size: int,
        progress: Callable[[Move], None] | None,
    ) -> None:
        self._connection = connection
        self._embeddings = embeddings
        self._space = space
        self._batch_size = batch_size
        self._progress = progress
        self._apart = tenants.is_distributed(connection)
        self._next = _NEXT.format(column=space.name)
        self._set = _SET.format(column=space.name, type=space.type)

    def missing(self) -> int:
        """Count the passages without a vector."""
        [[count]] = self._rows(
            f"SELECT count(*) FROM memkit_passages WHERE {self._space.name} IS NULL"
        )
        return int(count)

    def fill(self) -> None:
        """Go over the table until hardly any is missing: others write beside this."""
        while self._pass() >= self._batch_size:
            pass

    def _pass(self) -> int:
        done = 0
        after: Sequence[Any] = ("", "", "", "")
        while rows := self._rows(self._next, *after, self._batch_size):
            after = rows[-1][:4]
            done += self._embed(
                [Passage(Address(*row[:3]), row[3], row[4], "", None) for row in rows]
            )
        return done

    def _embed(self, passages: Sequence[Passage]) -> int:
        texts = list(dict.fromkeys(passage.text for passage in passages))
        embedded = self._embeddings.embed_documents(texts)
        vectors = dict(zip(texts, self._space.encode_all(embedded, texts), strict=True))
        done = sum(
            self._write(
                group.statement(self._set, **params, vectors=[vectors[t] for t in params["texts"]])
            )
            for group, params in by_group(passages, apart=self._apart)
        )
        self.move = replace(self.move, embedded=self.move.embedded + done)
        if self._progress is not None:
            self._progress(self.move)
        return done

    def _write(self, statement: Statement) -> int:
        """Write beside others, whose transactions may cross this one."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                with tenants.seeing_all(self._connection):
                    self._connection.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT_S}s'")
                    return self._connection.execute(*statement, prepare=False).rowcount
            except _IN_THE_WAY as error:
                if attempt == _ATTEMPTS:
                    raise StoreError(_busy(self._connection)) from error
                if isinstance(error, pg.LockNotAvailable):
                    time.sleep(_LOCK_TIMEOUT_S)
        raise AssertionError  # pragma: no cover - the loop returns or raises

    def _rows(self, statement: str, *params: Any) -> list[Any]:
        with (
            tenants.seeing_all(self._connection),
            self._connection.cursor(row_factory=tuple_row) as cursor,
        ):
            return cursor.execute(statement, params or None, prepare=False).fetchall()
