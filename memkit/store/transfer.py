"""Copies LangGraph's PostgresStore (tables `store`, `store_vectors`) into a SemanticStore.

An item and its passages are written in one transaction, so an item that is there is there whole.
That is all that resuming needs: what is there already is passed over.
"""

# ruff: noqa: S608 - statements are put together from constants; all else is a parameter

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from itertools import islice
from typing import Any, NamedTuple, TypeAlias, cast

import numpy as np
from langgraph.store.base import PutOp, get_text_at_path, tokenize_path
from psycopg.rows import tuple_row

from memkit.db.pool import Connection, connect, place, translated
from memkit.effects import EmbedTexts, PutIf
from memkit.errors import ConfigError, DimensionMismatch, StoreError
from memkit.store import meta, tenants, versions, writes
from memkit.store.plan import LIVE, Address, Batch, Passage, Write, columns, plan
from memkit.store.semantic import SemanticStore
from memkit.store.values import words
from memkit.store.vectors import VectorSpace, VectorType

_VECTOR_HEADER = 4  # bytes, in which pgvector sends the length
_SAMPLES = 3
# The same text embedded twice by one model is .99 alike even across builds of different precision;
# vectors of two models have nothing in common.
_SAME_MODEL = 0.9


@dataclass(slots=True)
class ImportReport:
    """What an import has done so far, or in a dry run would do."""

    read: int = 0
    """Items of the source that were looked at."""
    written: int = 0
    skipped: int = 0
    """Items that were there already; with `overwrite`, those that were already the same."""
    expired: int = 0
    """Items left out, since their time to live is over."""
    refused: int = 0
    """Items left out, since their namespace has an empty label or their value is no mapping; no put
    of today's PostgresStore makes such items."""
    vectors_copied: int = 0
    texts_embedded: int = 0
    """Texts embedded anew, since the source has no vector that fits."""
    texts_without_vector: int = 0
    """Texts indexed by their words alone: no vector fits, and there were no embeddings."""
    other_embeddings: bool = False
    """Whether the source's vectors have the right length, but are of another model."""
    total: int = 0
    """Items that the source had at the beginning."""


class _Row(NamedTuple):
    """An item of the source; the value is JSON text."""

    prefix: str
    key: str
    value: str
    created_at: datetime
    updated_at: datetime
    ttl_minutes: float | None
    expires_at: datetime | None
    expired: bool


@dataclass(slots=True)
class _Item:
    """An item on its way: as it was, as it is to be, and what is indexed of it."""

    row: _Row
    value: dict[str, Any]
    write: Write
    passages: list[Passage] = field(default_factory=list)


Items: TypeAlias = dict[Address, _Item]
Vectors: TypeAlias = dict[str, Any]  # by text: arrays, or lists of floats


def import_postgres_store(
    source: str,
    store: SemanticStore,
    *,
    batch_size: int = 1_000,
    overwrite: bool = False,
    vectors: bool = True,
    dry_run: bool = False,
    progress: Callable[[ImportReport], None] | None = None,
) -> ImportReport:
    """Copy the items, times, times to live and vectors of a PostgresStore; the source is only read.

    Ended at any point, the same call goes on: each batch is one transaction, and what is there is
    neither written nor embedded again. Items that are put into the source while it is read may be
    missed; a second call fetches them.

    Items keep their values, `created_at`, `updated_at`, expiry and `ttl_minutes`, of which
    PostgresStore rounds less than half a minute to 0: such an item gets back the time to live that
    it was put with. A namespace is what PostgresStore reads it as: its prefix, split at the dots.
    What has expired is left out, and an expired item of the target counts as none.

    What is indexed is what a put into `store` would index: the texts under its fields, also of
    items that were put with `index=False` or other fields, which the source does not tell. The
    vector of a text is copied if it has the length of the store's vectors, was made by the item's
    latest put, and its `field_name` names that text and no other in the value (under a wildcard
    over a mapping with several texts the names do not tell). Up to three texts are embedded to see
    whether the vectors are of the store's embeddings. All other texts are embedded anew. A store
    without embeddings takes the vectors as they are, and leaves the other texts without.

    Args:
        source: The connection string of the source's database, which may be the store's own.
        store: Where to, set up.
        batch_size: Items per transaction.
        overwrite: Whether items that are there become as in the source, unless they already are.
        vectors: Whether to look at the source's vectors at all.
        dry_run: Count what would be done. Copies nothing; embeds the three texts at most.
        progress: Called after each batch with the counts so far.

    Raises:
        ConfigError: The database has no tables of a PostgresStore.
        DimensionMismatch: The vectors have another length than the store's, which has no
            embeddings to make new ones.
        StoreError: A database cannot be reached, or the embeddings fail; what was written before
            stays, and the same call goes on.

    Cost:
        Two statements per batch of items that are there already; for those that are not, one that
        reads vectors, those of a put, one that sets the times, and one embedding call.
    """
    if batch_size < 1:
        msg = f"batch_size is the items per transaction, at least 1, not {batch_size!r}"
        raise ConfigError(msg)
    with contextlib.closing(_Source(source, with_vectors=vectors)) as old:
        report = ImportReport(total=old.count())
        target = _Target(store, overwrite=overwrite)
        dims = target.agree(old)
        seen_samples = store.embeddings is None
        for rows in old.pages(batch_size):
            live = [row for row in rows if not row.expired]
            items = target.items(live)
            new = items if overwrite else target.outdated(items, {})
            known = {} if dims is None else _known(old, new, dims)
            if not seen_samples and (samples := _samples(known)):
                seen_samples = True
                if not _same_model(samples, target.embed(list(samples))):
                    report.other_embeddings = True
                    dims, known = None, {}
            if overwrite:
                new = target.outdated(items, known)
            _count(report, new, known, embeds=store.embeddings is not None)
            written = len(new) if dry_run else target.write(new, known)
            report.read += len(rows)
            report.expired += len(rows) - len(live)
            report.refused += len(live) - len(items)
            report.written += written
            report.skipped += len(items) - written
            if progress is not None:
                progress(report)
    return report


def _count(report: ImportReport, items: Items, known: Vectors, *, embeds: bool) -> None:
    texts = [passage.text for item in items.values() for passage in item.passages]
    missing = [text for text in texts if text not in known]
    report.vectors_copied += len(texts) - len(missing)
    if embeds:
        report.texts_embedded += len(set(missing))
    else:
        report.texts_without_vector += len(missing)


# The source

_COLUMNS = """
SELECT a.attname, t.typname FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
WHERE a.attrelid = to_regclass(%(table)s) AND a.attnum > 0 AND NOT a.attisdropped
"""

# An item whose ttl_minutes are 0 expires at its first read, so that a live one was never read, and
# its expiry is as its put set it.
_TTL = """
CASE WHEN ttl_minutes <> 0 THEN ttl_minutes
    ELSE extract(epoch FROM expires_at - updated_at) / 60 END::float8 AS ttl_minutes,
expires_at, coalesce(expires_at <= now(), false) AS expired
"""
_NO_TTL = "NULL::float8 AS ttl_minutes, NULL::timestamptz AS expires_at, false AS expired"
_PAGE = """
SELECT prefix, key, value::text, coalesce(created_at, updated_at, now()) AS created_at,
    coalesce(updated_at, created_at, now()) AS updated_at, {ttl}
FROM store {after} ORDER BY prefix, key LIMIT %(limit)s
"""
# A put of an item and its vectors is one transaction, with one time. A vector that is older than
# its item was left behind by a put that did not index the field; one of an item that was put again
# since its page was read is of another text.
_VECTORS = """
SELECT v.prefix, v.key, v.field_name, vector_send(v.embedding::vector)
FROM unnest(%(prefixes)s::text[], %(keys)b::text[], %(updated)s::timestamptz[])
    AS wanted (prefix, key, updated_at)
JOIN store s ON s.prefix = wanted.prefix AND s.key = wanted.key
    AND s.updated_at = wanted.updated_at
JOIN store_vectors v ON v.prefix = s.prefix AND v.key = s.key
WHERE v.updated_at >= s.updated_at AND vector_dims(v.embedding) = %(dims)s
"""


class _Source:
    """The tables of a PostgresStore; one connection, which cannot write."""

    def __init__(self, conninfo: str, *, with_vectors: bool) -> None:
        self.conninfo = conninfo
        with contextlib.ExitStack() as resources:
            self._connection = resources.enter_context(contextlib.closing(connect(conninfo)))
            self._connection.read_only = True
            items = self._columns("store")
            if not {"prefix", "key", "value", "created_at", "updated_at"} <= items.keys():
                raise ConfigError(_no_store(conninfo, found=bool(items)))
            self._ttl = _TTL if {"ttl_minutes", "expires_at"} <= items.keys() else _NO_TTL
            self.dims = self._dims() if with_vectors else None
            self.close = resources.pop_all().close

    def count(self) -> int:
        """Return how many items there are."""
        ((count,),) = self._ask("SELECT count(*) FROM store", {})
        return int(count)

    def pages(self, size: int) -> Iterator[list[_Row]]:
        """Yield the items in the order of the primary key."""
        bound: dict[str, str] = {}
        while True:
            after = "WHERE (prefix, key) > (%(prefix)s, %(key)s)" if bound else ""
            page = _PAGE.format(ttl=self._ttl, after=after)
            rows = [_Row(*row) for row in self._ask(page, {**bound, "limit": size})]
            if rows:
                yield rows
            if len(rows) < size:
                return
            bound = {"prefix": rows[-1].prefix, "key": rows[-1].key}

    def vectors(self, rows: Sequence[_Row], dims: int) -> list[tuple[str, str, str, bytes]]:
        """Return the vectors that were made of these items: prefix, key, field name, vector."""
        wanted = {
            "prefixes": [row.prefix for row in rows],
            "keys": [row.key for row in rows],
            "updated": [row.updated_at for row in rows],
            "dims": dims,
        }
        return self._ask(_VECTORS, wanted)

    def _dims(self) -> int | None:
        """Return the length of the vectors; None if there are none that can be copied."""
        if self._columns("store_vectors").get("embedding") not in {"vector", "halfvec"}:
            return None
        first = "SELECT vector_dims(embedding) FROM store_vectors WHERE embedding IS NOT NULL"
        rows = self._ask(f"{first} LIMIT 1", {})
        return rows[0][0] if rows else None

    def _columns(self, table: str) -> dict[str, str]:
        return dict(self._ask(_COLUMNS, {"table": table}))

    def _ask(self, sql: str, params: Mapping[str, Any]) -> list[Any]:
        with translated(self.conninfo), self._connection.transaction():
            cursor = self._connection.cursor(row_factory=tuple_row, binary=True)
            return cursor.execute(sql, params).fetchall()


def _no_store(conninfo: str, *, found: bool) -> str:
    what = "a table `store` that is not a PostgresStore's" if found else "no table `store`"
    return (
        f"{place(conninfo)} has {what}; give the address that PostgresStore was opened with (in "
        "another schema: add ?options=-csearch_path%3DSCHEMA)"
    )


# Which vector belongs to which text


def _known(source: _Source, items: Items, dims: int) -> Vectors:
    """Return the source's vectors of what is indexed of some items, by text."""
    with_texts = {(item.row.prefix, item.row.key): item for item in items.values() if item.passages}
    rows = source.vectors([item.row for item in with_texts.values()], dims) if with_texts else []
    named: dict[tuple[str, str], dict[str, bytes]] = {}
    for prefix, key, name, vector in rows:
        named.setdefault((prefix, key), {})[name] = vector
    known: Vectors = {}
    for source_key, vectors in named.items():
        item = with_texts[source_key]
        wanted = {passage.text for passage in item.passages}
        for name, text in _embedded(item.value, list(vectors)).items():
            if text in wanted:
                known[text] = np.frombuffer(vectors[name], ">f4", offset=_VECTOR_HEADER)
    return known


def _embedded(value: Any, names: Sequence[str]) -> dict[str, str]:
    """Return the text of which PostgresStore made each vector, where its name tells.

    Args:
        value: The item's value.
        names: Names of vectors: a path, with an ordinal behind it where it led to several texts.
    """
    known: dict[str, list[str]] = {}

    def at(path: str) -> list[str]:
        if path not in known:
            known[path] = get_text_at_path(value, path if path == "$" else tokenize_path(path))
        return known[path]

    found = {}
    for name in names:
        readings = set(at(name)) if len(at(name)) == 1 else set()
        path, _, ordinal = name.rpartition(".")
        if path and ordinal.isascii() and ordinal.isdigit() and len(at(path)) > int(ordinal):
            # jsonb does not keep the order of names, by which a wildcard numbers them.
            several = [] if "*" in tokenize_path(path) else at(path)
            readings |= {several[int(ordinal)]} if len(several) > 1 else set()
        if len(readings) == 1:
            found[name] = words(readings.pop())
    return found


def _samples(known: Vectors) -> Vectors:
    """Return a few texts and their vectors, other than zeros."""
    telling = ((text, vector) for text, vector in known.items() if text.strip() and np.any(vector))
    return dict(islice(telling, _SAMPLES))


def _same_model(theirs: Vectors, ours: Vectors) -> bool:
    cosines = []
    for text, vector in theirs.items():
        a, b = (np.asarray(v, np.float64) for v in (ours[text], vector))
        cosines.append(float(a @ b / ((np.linalg.norm(a) * np.linalg.norm(b)) or 1.0)))
    return sum(cosines) / len(cosines) >= _SAME_MODEL


def _value(row: _Row) -> Any:
    try:
        return json.loads(row.value)
    except ValueError as error:  # a number of too many digits
        msg = f"the value of key {row.key!r} under {row.prefix!r} cannot be read: {error}"
        raise StoreError(msg) from error


# The target

_KEYS = "%(tenants)b::text[], %(namespaces)b::text[], %(keys)b::text[]"
_TIMED = """%(created)s::timestamptz[], %(updated)s::timestamptz[], %(ttls)s::float8[],
    %(expiries)s::timestamptz[]"""
_SAME_KEY = "i.tenant = new.tenant AND i.namespace = new.namespace AND i.key = new.key"
_THERE = f"""
SELECT i.tenant, i.namespace, i.key FROM memkit_items i
JOIN unnest({_KEYS}) AS new (tenant, namespace, key) ON {_SAME_KEY}
WHERE {LIVE}
"""
# Reads move the expiry; a vector more than needed is no difference.
_SAME = f"""
SELECT i.tenant, i.namespace, i.key FROM memkit_items i
JOIN unnest({_KEYS}, {_TIMED}, %(values)b::text[], %(texts)b::text[], %(vectors)s::integer[])
    AS new (tenant, namespace, key, created_at, updated_at, ttl_minutes, expires_at, value, texts,
        vectors)
    ON {_SAME_KEY}
WHERE {LIVE}
    AND i.value = new.value::jsonb AND i.created_at = new.created_at
    AND i.updated_at = new.updated_at AND i.ttl_minutes IS NOT DISTINCT FROM new.ttl_minutes
    AND (
        SELECT count(p.{{column}}) >= new.vectors
            AND coalesce(jsonb_object_agg(p.path, p.text), '{{}}') = new.texts::jsonb
        FROM memkit_passages p
        WHERE p.tenant = i.tenant AND p.namespace = i.namespace AND p.key = i.key
    )
"""
# Puts set the times themselves.
_TIMES = f"""
UPDATE memkit_items i SET
    created_at = new.created_at,
    updated_at = new.updated_at,
    ttl_minutes = new.ttl_minutes,
    expires_at = new.expires_at
FROM unnest({_KEYS}, {_TIMED})
    AS new (tenant, namespace, key, created_at, updated_at, ttl_minutes, expires_at)
WHERE {_SAME_KEY}
"""
_CLAIM = """
INSERT INTO memkit_meta (name, value) VALUES ('dims', to_jsonb(%(dims)s::integer))
ON CONFLICT (name) DO NOTHING
"""


def _column(connection: Connection) -> tuple[str, VectorType]:
    """Return the name and type of the column that holds the vectors."""
    name = meta.column(connection)
    return name, cast("VectorType", meta.column_type(connection, name))


class _Target:
    """The tables of a SemanticStore, written by the statements of its puts."""

    def __init__(self, store: SemanticStore, *, overwrite: bool) -> None:
        self._store = store
        self._database = store._database
        self._overwrite = overwrite
        self._claims = False
        stored = store.stored_dims()  # also says so if the tables are missing
        self._dims = stored if store.dims is None else store.dims
        self._column, self._vector_type = self._database.run(_column, writes=False)

    def _space(self, dims: int) -> VectorSpace:
        return VectorSpace(dims, type=self._vector_type, name=self._column)

    def agree(self, source: _Source) -> int | None:
        """Return the length of the vectors to copy; None where none fit.

        Raises:
            DimensionMismatch: Nor can they be made anew.
        """
        if source.dims is None or self._store._fields is None:
            return None
        if self._dims is None:
            self._dims, self._claims = source.dims, True
        if source.dims == self._dims:
            return source.dims
        if self._store.embeddings is None:
            msg = (
                f"the vectors of {place(source.conninfo)} have {source.dims} dimensions, those of "
                f"{self._database.place} {self._dims}: give the embeddings that the latter were "
                "made with, so that texts can be embedded anew, or leave the vectors out"
            )
            raise DimensionMismatch(msg)
        return None

    def items(self, rows: Sequence[_Row]) -> Items:
        """Return what can be stored by where it goes, in the order of these addresses."""
        read: dict[Address, tuple[_Row, Any]] = {}
        puts: list[PutOp] = []
        for row in rows:
            labels, value = tuple(row.prefix.split(".")), _value(row)
            if all(labels) and isinstance(value, dict):
                read[Address.of(labels, row.key)] = row, value
                puts.append(PutOp(labels, row.key, value))
        ops = puts if self._overwrite else [PutIf(put, 0) for put in puts]
        batch = plan(ops, self._store._fields, self._store._language_field)
        found = {address: _Item(*read[address], write) for address, write in batch.writes.items()}
        for passage in batch.passages:
            found[passage.address].passages.append(passage)
        return found

    def outdated(self, items: Items, known: Vectors) -> Items:
        """Return the items that are not there; those that are not the same, if these count."""
        if not items:
            return {}
        sql, params = _THERE, columns(items)
        if self._overwrite:
            sql, params = (
                _SAME.replace("{column}", self._column),
                {**_times(items), **self._contents(items, known)},
            )
        there = {Address(*row) for row in self._database.run(partial(_rows, sql, params))}
        return {address: item for address, item in items.items() if address not in there}

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return the vectors of texts by text; none without embeddings."""
        if self._store.embeddings is None or not texts:
            return {}
        distinct = list(dict.fromkeys(texts))
        embedded = EmbedTexts(self._store.embeddings, distinct).run()
        if len(embedded) != len(distinct):
            msg = f"the embeddings gave {len(embedded)} vectors for {len(distinct)} texts"
            raise StoreError(msg)
        return dict(zip(distinct, embedded, strict=True))

    def write(self, items: Items, known: Vectors) -> int:
        """Write items and their passages, and return how many; others may have been faster."""
        if not items:
            return 0
        texts = [passage.text for item in items.values() for passage in item.passages]
        found = known | self.embed([text for text in texts if text not in known])
        vectors: dict[str, Any] = {}
        if self._dims is not None:
            space = self._space(self._dims)
            vectors = {text: space.encode(found[text], text) for text in texts if text in found}
        return self._database.run(partial(self._execute, items, vectors))

    def _execute(self, items: Items, vectors: Vectors, connection: Connection) -> int:
        connection.execute(*tenants.ALL)
        for statement in writes.take_turns(_batch(items)):
            connection.execute(*statement)
        if not self._overwrite:
            absent = set()
            for statement, _ in writes.write_if(_batch(items)):
                absent |= {Address(*row) for row in _rows(*statement, connection)}
            items = {address: item for address, item in items.items() if address in absent}
        batch = _batch(items)
        found = [vectors.get(passage.text) for passage in batch.passages]
        any_found = any(vector is not None for vector in found)
        if any_found and self._claims:
            connection.execute(_CLAIM, {"dims": self._dims})
        for statement in writes.write(
            batch,
            found if any_found else [],
            space=None if self._dims is None else self._space(self._dims),
            languages=self._store._languages,
        ):
            connection.execute(*statement)
        connection.execute(_TIMES, _times(items))
        # An item with the times of elsewhere does not go on where its versions here ended.
        for statement in versions.forget(items):
            connection.execute(*statement)
        return len(items)

    def _contents(self, items: Items, known: Vectors) -> dict[str, Any]:
        embeds = self._store.embeddings is not None
        texts = [
            {passage.path: passage.text for passage in item.passages} for item in items.values()
        ]
        return {
            "values": [item.write.value for item in items.values()],
            "texts": [json.dumps(each, ensure_ascii=False) for each in texts],
            "vectors": [sum(embeds or t in known for t in each.values()) for each in texts],
        }


def _batch(items: Items) -> Batch:
    return Batch(
        writes={address: item.write for address, item in items.items()},
        passages=[passage for item in items.values() for passage in item.passages],
    )


def _times(items: Items) -> dict[str, Any]:
    rows = [item.row for item in items.values()]
    return {
        **columns(items),
        "created": [row.created_at for row in rows],
        "updated": [row.updated_at for row in rows],
        "ttls": [row.ttl_minutes for row in rows],
        "expiries": [row.expires_at for row in rows],
    }


def _rows(sql: str, params: Mapping[str, Any], connection: Connection) -> list[Any]:
    connection.execute(*tenants.ALL)
    return connection.cursor(row_factory=tuple_row).execute(sql, params).fetchall()
