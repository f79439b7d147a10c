"""Indexes for what has grown too large to look at: which there are, and building them online.

A scope is a tenant, or the whole tree. Its indexes hold its passages alone, so that a small
tenant's search never wades through others' rows. What a vector index finds depends on the data, so
after building it is asked for neighbours that are known, and looks into more lists until it finds
them; where that takes too many, the scope goes on without.
"""

# ruff: noqa: S608 - statements are put together from constants and checked names

import contextlib
import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from math import isqrt
from typing import Any

import psycopg
from pgvector.psycopg import register_vector
from psycopg import sql
from psycopg.rows import tuple_row

from memkit.db.database import Database
from memkit.db.pool import Connection, translated
from memkit.errors import MemkitError
from memkit.store import namespace as ns
from memkit.store.search import Reach
from memkit.store.tenants import seeing_all
from memkit.store.vectors import FIRST_COLUMN, Distance, VectorSpace, of_class

logger = logging.getLogger(__name__)

WHOLE_TREE = ""
"""The scope of searches whose prefix names no tenant."""

PAYS_FROM = 4_000
"""Passages from which on a scope gets indexes: looking at so many takes some 10 ms."""
_GROWN = 4  # times as large as when they were built: then they are built anew
_RECALL = 0.99
_NEARLY, _ATTEMPTS = 0.95, 2  # k-means begins at random: what nearly did may do when repeated
_SAMPLE = 20
_NEIGHBOURS = 10  # beside itself
_MOST_LISTS = 1_500  # k-means over more takes gigabytes
_TURN = "1 hour"  # of whoever builds; behind PgBouncer, a crash keeps others waiting as long
_ASK_AGAIN_S = 1.0
_CANCEL_S = 5.0
_CANCEL_AGAIN_S = 0.1

# How long a process believes what it read about indexes, and leaves a scope alone after a look.
_BELIEVED_S = 30.0
_LEFT_ALONE_S = 300.0
_SLOW_S = 0.005  # a search without an index that took so long is worth a look


@dataclass(frozen=True, slots=True)
class Built:
    """What was done for a scope.

    Attributes:
        scope: The tenant; "" is the whole tree.
        passages: How many there are.
        recall: Of the ten nearest to some of its own vectors, the share that the index finds.
        probes: Lists that a search looks into; None: the vectors go without an index.
        seconds: How long it took.
    """

    scope: str
    passages: int
    recall: float | None
    probes: int | None
    seconds: float


class Indexes:
    """The indexes of a store's scopes, as this process knows them.

    Args:
        database: Where they are.
        space: Of the vectors; None where the store has none.
        used: Whether searches use them, and lead to them where they are slow.
    """

    def __init__(self, database: Database, space: VectorSpace | None, *, used: bool) -> None:
        self._database = database
        self.space = space
        self._used = used
        self._reach: dict[str, Reach] = {}
        self._read_at = -_BELIEVED_S
        self._looked_at: dict[str, float] = {}
        self._building: Connection | None = None
        self._lock = threading.Lock()
        # One at a time: building takes a core.
        self._builder = ThreadPoolExecutor(1, "memkit-indexes")
        self._submitted: list[Future[None]] = []

    def reach(self, prefix: Sequence[str], connection: Connection) -> Reach | None:
        """Return what the indexes for a search need; None where it is to look at everything."""
        if not self._used:
            return None
        if time.monotonic() - self._read_at > _BELIEVED_S:
            self._read(connection)
        return self._reach.get(scope_of(prefix))

    def noticed(self, prefix: Sequence[str], seconds: float) -> None:
        """Take note of a search that looked at everything, and build indexes if that was long."""
        scope, now = scope_of(prefix), time.monotonic()
        if seconds < _SLOW_S:
            return
        with self._lock:
            if not self._used or now - self._looked_at.get(scope, -_LEFT_ALONE_S) < _LEFT_ALONE_S:
                return
            self._looked_at[scope] = now
            waiting = [future for future in self._submitted if not future.done()]
            self._submitted = [*waiting, self._builder.submit(self._build_unasked, scope)]

    def build(self, *, wait: bool = False) -> list[Built]:
        """Build what pays now, and return what was built.

        Args:
            wait: Whether to wait while another process builds; otherwise nothing is built then.

        Raises:
            StoreError: The database refuses, or cannot be reached.
        """
        return self._build(_scopes, wait=wait)

    def close(self) -> None:
        """Give up what is being built, and begin nothing more."""
        with self._lock:
            self._used = False
        self._builder.shutdown(wait=False, cancel_futures=True)
        # A build is many statements: a cancel that comes between two of them ends none.
        while not all(future.done() for future in self._submitted):
            if (connection := self._building) is not None:
                with contextlib.suppress(psycopg.Error):
                    connection.cancel_safe(timeout=_CANCEL_S)
            time.sleep(_CANCEL_AGAIN_S)
        self._builder.shutdown(wait=True)

    def _build_unasked(self, scope: str) -> None:
        try:
            self._build(lambda _: [scope])
        except MemkitError as error:
            logger.warning("no index for scope %r for now, searches stay exact: %s", scope, error)
        except Exception:
            logger.exception("no index for scope %r for now, searches stay exact", scope)

    def _build(
        self, scopes: Callable[[Connection], list[str]], *, wait: bool = False
    ) -> list[Built]:
        with translated(self._database.conninfo), self._database.connect() as connection:
            # An index that is built online can be built in no transaction.
            connection.execute("SET statement_timeout = 0")
            register_vector(connection)
            self._building = connection
            try:
                with _turn(connection, wait=wait) as is_ours:
                    if not is_ours:
                        return []
                    builders = [_Builder(connection, s, self.space) for s in scopes(connection)]
                    return [built for builder in builders if (built := builder.run()) is not None]
            finally:
                self._building = None
                self._read_at = -_BELIEVED_S
                with contextlib.suppress(psycopg.Error):  # PgBouncer lends it to others next
                    connection.execute("RESET statement_timeout")
                    connection.execute("RESET maintenance_work_mem")

    def _read(self, connection: Connection) -> None:
        with connection.cursor(row_factory=tuple_row) as cursor:
            rows = cursor.execute(
                "SELECT scope, passages, probes FROM memkit_indexes WHERE vectors = %s",
                (self.space.name if self.space else FIRST_COLUMN,),
            ).fetchall()
        self._reach = {scope: Reach(passages, probes) for scope, passages, probes in rows}
        self._read_at = time.monotonic()


def scope_of(prefix: Sequence[str]) -> str:
    """Return the scope of a search below `prefix`."""
    return ns.tenant(prefix) if len(prefix) >= ns.TENANT_LABELS else WHOLE_TREE


def drop_all(connection: Connection, column: str) -> None:
    """Drop the indexes that serve searches in a column of vectors.

    Args:
        connection: In no transaction.
        column: Its name.
    """
    with connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute("SELECT scope FROM memkit_indexes WHERE vectors = %s", (column,))
        scopes = [scope for (scope,) in cursor.fetchall()]
    # What was cut off while it built has indexes, and says nothing of them.
    for scope in dict.fromkeys([*scopes, *_scopes(connection)]):
        _Builder(connection, scope, VectorSpace(1, name=column)).drop()


def distance_of(connection: Connection, column: str) -> Distance | None:
    """Return the distance that the indexes of a column of vectors serve; None without any."""
    with connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute(
            "SELECT c.opcname::text FROM pg_index i JOIN pg_opclass c ON c.oid = i.indclass[0]"
            " WHERE i.indrelid = 'memkit_passages'::regclass AND i.indisvalid"
            " AND i.indexrelid::regclass::text ~ '^memkit_near_'"
            " AND position('(' || %s || ')::' IN pg_get_indexdef(i.indexrelid)) > 0 LIMIT 1",
            (column,),
        )
        row = cursor.fetchone()
    return None if row is None else of_class(row[0])


def settings(reach: Reach | None, *, distributed: bool = False) -> str:
    """Return the SQL that a search of a scope needs before it, for its transaction.

    A statement that was planned for all tenants could use no index of one, and would look at the
    whole tree as at a small part of it.
    """
    anew = "SET LOCAL plan_cache_mode = force_custom_plan"
    if reach is None:
        return anew
    to_workers = "SET LOCAL citus.propagate_set_commands = 'local'; " if distributed else ""
    return (
        f"{anew}; {to_workers}SET LOCAL ivfflat.probes = {reach.probes or 1}; "
        "SET LOCAL ivfflat.iterative_scan = relaxed_order"
    )


@contextlib.contextmanager
def _turn(connection: Connection, *, wait: bool = False) -> Iterator[bool]:
    """Let one process build at a time: two builds on one table wait for each other.

    Whose connection is gone builds no more.
    """
    take = (
        "INSERT INTO memkit_meta AS held (name, value) VALUES ('indexing', jsonb_build_object("
        f"'until', now() + interval '{_TURN}', 'process', pg_backend_pid()))"
        " ON CONFLICT (name) DO UPDATE SET value = excluded.value"
        " WHERE (held.value ->> 'until')::timestamptz < now() OR NOT EXISTS ("
        "SELECT FROM pg_stat_activity WHERE pid = (held.value ->> 'process')::integer"
        ") RETURNING name"
    )
    while not (rows := connection.execute(take).fetchall()) and wait:
        time.sleep(_ASK_AGAIN_S)
    try:
        yield bool(rows)
    finally:
        if rows and not connection.closed:
            connection.execute("DELETE FROM memkit_meta WHERE name = 'indexing'")


def _scopes(connection: Connection) -> list[str]:
    with seeing_all(connection), connection.cursor(row_factory=tuple_row) as cursor:
        rows = cursor.execute(
            "SELECT tenant FROM memkit_passages GROUP BY tenant HAVING count(*) >= %s"
            " UNION SELECT scope FROM memkit_indexes ORDER BY 1",
            (PAYS_FROM,),
        ).fetchall()
    return list(dict.fromkeys([*(scope for (scope,) in rows), WHOLE_TREE]))


class _Builder:
    """Builds the indexes of one scope on one connection, in no transaction."""

    def __init__(self, connection: Connection, scope: str, space: VectorSpace | None) -> None:
        self._connection = connection
        self._scope = scope
        self._space = space if space is not None and space.can_be_indexed else None
        self._vectors = space.name if space is not None else FIRST_COLUMN
        self._within = (
            sql.SQL("tenant = {}").format(sql.Literal(scope)) if scope else sql.SQL("true")
        )

    def run(self) -> Built | None:
        """Build what is due; return what was built."""
        started = time.monotonic()
        with seeing_all(self._connection):
            [[passages]] = self._execute("SELECT count(*) FROM memkit_passages WHERE {within}")
        known = self._execute("SELECT generation, passages FROM memkit_indexes WHERE {this}")
        built, when_built = known[0] if known else (0, 0)
        self._drop(keep=built)  # a build that was cut off leaves something
        if passages < PAYS_FROM // 2:
            self.drop()
            return None
        if passages < max(PAYS_FROM, _GROWN * when_built):
            return None
        recall, probes = self._create_all(built + 1, passages)
        self._drop(keep=built + 1)
        return Built(self._scope, passages, recall, probes, time.monotonic() - started)

    def drop(self) -> None:
        """Drop them all."""
        self._execute("DELETE FROM memkit_indexes WHERE {this}")
        self._drop(keep=None)

    def _create_all(self, generation: int, passages: int) -> tuple[float | None, int | None]:
        self._create("gin", "words", generation, "tsv")
        self._create("gin", "terms", generation, "terms")
        self._execute("ANALYZE memkit_passages")
        recall = probes = None
        if self._space is not None:
            recall, probes = self._create_near(self._space, generation, passages)
        self._execute(
            "INSERT INTO memkit_indexes"
            " (scope, vectors, generation, built_at, passages, probes, recall)"
            " VALUES ({scope}, {vectors}, %s, now(), %s, %s, %s)"
            " ON CONFLICT (scope, vectors) DO UPDATE SET"
            " generation = excluded.generation, built_at = excluded.built_at,"
            " passages = excluded.passages, probes = excluded.probes, recall = excluded.recall",
            generation,
            passages,
            probes,
            recall,
        )
        return recall, probes

    def _create_near(
        self, space: VectorSpace, generation: int, passages: int
    ) -> tuple[float, int | None]:
        """Build the index of vectors; return its recall, and the lists to look into."""
        lists = min(max(isqrt(passages), 10), _MOST_LISTS)
        # k-means holds its sample, and a bound for each of it to each list.
        sample = max(50 * lists, 10_000)
        bytes_needed = sample * (4 * space.dims + 4 * lists) + 8 * lists * lists
        self._execute(
            "SELECT set_config('maintenance_work_mem', greatest(%s, setting::bigint)::text, false)"
            " FROM pg_settings WHERE name = 'maintenance_work_mem'",
            int(1.2 * bytes_needed / 1024),
        )
        column = f"({space.column}) {space.index_class}"
        recall, probes = 0.0, None
        for _ in range(_ATTEMPTS):
            name = self._create("ivfflat", "near", generation, column, f" WITH (lists = {lists})")
            recall, probes = self._fathom(space, lists)
            if probes is not None:
                break
            self._execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            if recall < _NEARLY:
                break
        return recall, probes

    def _fathom(self, space: VectorSpace, lists: int) -> tuple[float, int | None]:
        """Return how many lists to look into, found by asking for what is known."""
        with seeing_all(self._connection):
            questions = self._execute(
                f"SELECT {space.name} FROM memkit_passages WHERE {{within}} AND {space.is_there}"
                " ORDER BY random() LIMIT {sample}"
            )
        exact = self._nearest(space, questions, "SET LOCAL enable_indexscan = off")
        recall, probes = 0.0, max(4, lists // 50)
        while probes <= lists // 2:
            found = self._nearest(space, questions, settings(Reach(0, probes)))
            # Equally near ones are as good as each other.
            recall = sum(
                sum(distance <= known[-1] + 1e-6 for distance in near)
                for near, known in zip(found, exact, strict=True)
                if known
            ) / max(1, sum(map(len, exact)))
            if recall >= _RECALL:
                return recall, probes
            probes *= 2
        return recall, None

    def _nearest(
        self, space: VectorSpace, questions: Sequence[Any], setting: str
    ) -> list[list[float]]:
        order = space.order(space.column)
        tree = "" if self._scope else f" AND {space.is_there}"
        statement = (
            f"SELECT {order} FROM memkit_passages WHERE {{within}}{tree} ORDER BY {order}"
            f" LIMIT {_NEIGHBOURS + 1}"
        )
        with seeing_all(self._connection):
            self._execute(setting)
            return [
                sorted(row[0] for row in self._execute(statement, vector=question))[1:]
                for (question,) in questions
            ]

    def _create(
        self, method: str, what: str, generation: int, column: str, options: str = ""
    ) -> str:
        name = f"{self._name(what)}_{generation}"
        self._execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")  # a build that was cut off
        where = "{within}"
        if what == "near" and self._space is not None and not self._scope:
            # This keeps the tree's from serving a tenant, whose own was measured.
            where += f" AND {self._space.is_there}"
        self._execute(
            f"CREATE INDEX CONCURRENTLY {name} ON memkit_passages USING {method}"
            f" ({column}){options} WHERE {where}"
        )
        return name

    def _drop(self, *, keep: int | None) -> None:
        """Drop the indexes of other generations."""
        rows = self._execute(
            "SELECT indexrelid::regclass::text FROM pg_index"
            " WHERE indrelid = 'memkit_passages'::regclass"
            " AND indexrelid::regclass::text ~ ('^memkit_[a-z]+_' || %s || '_[0-9]+$')",
            self._digest,
        )
        for (name,) in rows:
            if keep is None or not name.endswith(f"_{keep}"):
                self._execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")

    def _name(self, what: str) -> str:
        return f"memkit_{what}_{self._digest}"

    @property
    def _digest(self) -> str:
        """Names of indexes are short, and tenants may be named by anything."""
        own = self._scope if self._vectors == FIRST_COLUMN else f"{self._scope}\0{self._vectors}"
        return hashlib.sha256(own.encode()).hexdigest()[:16] if own else "all"

    def _execute(self, statement: str, *params: Any, **named: Any) -> list[Any]:
        text = sql.SQL(statement).format(
            scope=sql.Literal(self._scope),
            vectors=sql.Literal(self._vectors),
            this=sql.SQL("scope = {} AND vectors = {}").format(self._scope, self._vectors),
            within=self._within,
            sample=sql.Literal(_SAMPLE),
        )
        with self._connection.cursor(row_factory=tuple_row) as cursor:
            cursor.execute(text, named or params or None, prepare=False)
            return cursor.fetchall() if cursor.description else []
