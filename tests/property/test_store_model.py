"""SemanticStore against a model: LangGraph's own InMemoryStore functions, and what differs.

What differs: items expire, a search without a query gives the newest first, pages never overlap,
an ordering with a missing or non-numeric field is no match, a put replaces the item's vectors, and
created_at stays.
"""

import asyncio
import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from langgraph.store.base import (
    GetOp,
    Item,
    ListNamespacesOp,
    MatchCondition,
    Op,
    PutOp,
    SearchItem,
    SearchOp,
    get_text_at_path,
)
from langgraph.store.memory import _compare_values, _does_match

from memkit.store import SemanticStore
from memkit.store.values import escape
from tests.fakes import HashEmbeddings

Namespace = tuple[str, ...]


class CountedWords(HashEmbeddings):
    """Words as small whole numbers, so that the store's arithmetic and the model's are exact.

    Texts of one similarity then score the same to the last bit, and the newest of them is first.
    """

    def _embed(self, text: str) -> list[float]:
        vector = [0.0] * self.dims
        for word in re.findall(r"\w+", text.lower()):
            digest = hashlib.sha256(word.encode("utf-8", "replace")).digest()
            vector[digest[0] % self.dims] += 1.0 if digest[4] % 2 else -1.0
        return vector


EMBEDDINGS = CountedWords(dims=16)

# 0 and 1 are left out: Python says True == 1, JSON does not.
scalars = st.sampled_from([None, True, False, 2, 10, 9.0, 1e23, "9", " 2.5 ", "a\x00b", "日本"])
names = st.sampled_from(["n", "deep", "nul\x00'\"%s"])
values = st.dictionaries(
    names,
    scalars
    | st.lists(scalars, max_size=2)
    | st.dictionaries(st.sampled_from(["x", "y"]), scalars, max_size=2),
    max_size=3,
)
sentences = st.sampled_from(["green tea", "tea and cake", "red car", "car", "", "tea\x00time"])
texts = st.none() | sentences | st.lists(sentences, max_size=3)
numbers = st.sampled_from([2, 2.5, 9, "10", -7.0, True, 1e23])
orderings = st.builds(
    lambda name, number: {name: number}, st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), numbers
)
equalities = st.builds(
    lambda name, value: {name: value},
    st.sampled_from(["$ne", "$eq"]),
    scalars | st.lists(scalars, max_size=1),
)
simple = st.one_of(equalities, orderings, scalars)
conditions = st.one_of(
    equalities,
    orderings,
    scalars,
    st.builds(lambda low, high: {**low, **high}, orderings, orderings | equalities),
    st.lists(simple, max_size=2),
    st.dictionaries(st.sampled_from(["x", "y"]), simple, max_size=2),
)
filters = st.none() | st.builds(lambda name, wanted: {name: wanted}, names, conditions)
filters |= st.dictionaries(names, equalities, min_size=2, max_size=2)
# Few places and few values, so that operations meet.
places: list[Namespace] = [
    ("a",),
    ("a", "b"),
    ("a", "b", "c"),
    ("a", "b-"),
    ("a%", "ä"),
    ("a_", "b"),
]
namespaces = st.sampled_from(places)
labels = st.sampled_from(["a", "b", "c", "a%", "ä"])
prefixes = st.sampled_from([(), (), *places, ("a%",), ("a",), ("a",), ("nowhere",)])
keys = st.sampled_from(["k", "", "k\x00"])
# Minutes. An expiry is always 50 minutes or more from the model's time, so however long a run takes
# on a busy machine, no item expires in the store alone.
SHORT_TTL, LONG_TTL = 400, 10_050
STEPS = (300, 500, 6000)
ttls = st.sampled_from([None, None, SHORT_TTL, LONG_TTL])
indexes: st.SearchStrategy[Any] = st.sampled_from(
    [None, None, False, ["n"], ["text", "deep.x"], ["missing"]]
)


@st.composite
def puts(draw: st.DrawFn) -> PutOp:
    value: dict[str, Any] = draw(values)
    if (text := draw(texts)) is not None:
        value["text"] = text
    kept = draw(st.integers(0, 9)) < 9
    return PutOp(draw(namespaces), draw(keys), value if kept else None, draw(indexes), draw(ttls))


gets = st.builds(GetOp, namespaces, keys, st.booleans())
pages = st.tuples(st.sampled_from([10, 2, 1, 0]), st.sampled_from([0, 0, 1, 3]))
searches = st.builds(
    lambda prefix, filter_, page, query, refresh: SearchOp(
        prefix, filter_, page[0], page[1], query, refresh
    ),
    prefixes,
    filters,
    pages,
    st.sampled_from([None, "", "tea", "a red car"]),
    st.booleans(),
)
paths = st.lists(labels | st.just("*"), min_size=1, max_size=3).map(tuple)
matches = st.builds(MatchCondition, st.sampled_from(["prefix", "suffix"]), paths)
listings = st.builds(
    ListNamespacesOp,
    st.none() | st.lists(matches, max_size=2).map(tuple),
    st.none() | st.integers(1, 3),
    st.integers(0, 5),
    st.integers(0, 2),
)


@dataclass
class Entry:
    """What the model knows of an item."""

    value: dict[str, Any]
    created: int
    updated: int
    ttl: float | None
    expires: float | None
    vectors: list[list[float]]


Hit = tuple[Namespace, str, float | None, Entry]


class Model:
    """The store as a dictionary; time passes only when told."""

    def __init__(self) -> None:
        self.entries: dict[tuple[Namespace, str], Entry] = {}
        self.minutes = 0
        self.batches = 0

    def batch(self, ops: list[Op]) -> list[Any]:
        self.batches += 1
        self.entries = {
            address: entry
            for address, entry in self.entries.items()
            if entry.expires is None or entry.expires > self.minutes
        }
        results = [self._read(op) for op in ops]
        for op, result in zip(ops, results, strict=True):
            # Not `and result`: an item whose value is {} is found, and refreshed, all the same.
            if isinstance(op, GetOp | SearchOp) and op.refresh_ttl and result is not None:
                for address in [(op.namespace, op.key)] if isinstance(op, GetOp) else result:
                    self._refresh(self.entries[address[:2]])
        last = {(op.namespace, op.key): op for op in ops if isinstance(op, PutOp)}
        for address, op in last.items():
            self._write(op, self.entries.get(address))
        return results

    def _refresh(self, entry: Entry) -> None:
        if entry.ttl is not None:
            entry.expires = self.minutes + entry.ttl

    def _write(self, op: PutOp, old: Entry | None) -> None:
        if op.value is None:
            self.entries.pop((op.namespace, op.key), None)
            return
        fields = ["text"] if op.index is None else op.index or []
        found = [text for field in fields for text in get_text_at_path(op.value, field)]
        self.entries[op.namespace, op.key] = Entry(
            dict(op.value),
            old.created if old else self.batches,
            self.batches,
            op.ttl,
            None if op.ttl is None else self.minutes + op.ttl,
            EMBEDDINGS.embed_documents(found),
        )

    def _read(self, op: Op) -> Any:
        if isinstance(op, GetOp):
            entry = self.entries.get((op.namespace, op.key))
            return None if entry is None else entry.value
        if isinstance(op, ListNamespacesOp):
            found = {
                namespace[: op.max_depth]
                for namespace, _ in self.entries
                if all(_does_match(condition, namespace) for condition in op.match_conditions or ())
            }
            return sorted(found)[op.offset : op.offset + op.limit]
        if isinstance(op, SearchOp):
            return self._search(op)[op.offset : op.offset + op.limit]
        return None

    def _search(self, op: SearchOp) -> list[Hit]:
        query = EMBEDDINGS.embed_query(op.query) if op.query else None
        hits: list[Hit] = []
        for (namespace, key), entry in self.entries.items():
            inside = namespace[: len(op.namespace_prefix)] == op.namespace_prefix
            if inside and _matches(entry.value, op.filter):
                score = None
                if query is not None and entry.vectors:
                    score = max(_cosine(vector, query) for vector in entry.vectors)
                hits.append((namespace, key, score, entry))
        hits.sort(
            key=lambda hit: (
                hit[2] is None,
                -(hit[2] or 0.0),
                -hit[3].updated,
                ".".join(hit[0]).encode(),
                escape(hit[1]).encode(),
            )
        )
        return hits


def _cosine(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the cosine by the steps of pgvector; a vector of zeros is unlike everything."""
    squares = sum(x * x for x in a) * sum(x * x for x in b)
    if squares == 0:
        return 0.0
    product = sum(x * y for x, y in zip(a, b, strict=True))
    return 1 - (1 - max(-1.0, min(1.0, product / math.sqrt(squares))))


def _matches(value: dict[str, Any], filter_: dict[str, Any] | None) -> bool:
    try:
        return all(_compare_values(value.get(k), wanted) for k, wanted in (filter_ or {}).items())
    except (TypeError, ValueError):
        return False


class StoreMachine(RuleBasedStateMachine):
    """Drives store and model through the same operations."""

    store: SemanticStore
    connection: psycopg.Connection[Any]

    @initialize(ops=st.lists(puts(), min_size=8, max_size=16))
    def start(self, ops: list[Op]) -> None:
        self.connection.execute("TRUNCATE memkit_items CASCADE")
        self.model = Model()
        self.created: dict[tuple[Namespace, str], tuple[int, datetime]] = {}
        self.batch(ops, a=False)

    @rule(ops=st.lists(puts() | puts() | gets | searches | listings, max_size=8), a=st.booleans())
    def batch(self, ops: list[Op], a: bool) -> None:
        expected = self.model.batch(ops)
        results = asyncio.run(self.store.abatch(ops)) if a else self.store.batch(ops)
        assert len(results) == len(ops)
        for op, result, wanted in zip(ops, results, expected, strict=True):
            if isinstance(op, SearchOp):
                self.compare_hits(result, wanted)
            elif isinstance(op, GetOp):
                assert (result.value if isinstance(result, Item) else result) == wanted
            else:
                assert result == wanted

    def compare_hits(self, result: Any, wanted: list[Hit]) -> None:
        assert [(hit.namespace, hit.key) for hit in result] == [hit[:2] for hit in wanted]
        for hit, (_, _, score, entry) in zip(result, wanted, strict=True):
            assert isinstance(hit, SearchItem)
            assert hit.value == entry.value
            assert (hit.score is None) == (score is None)
            if hit.score is not None and score is not None:
                assert abs(hit.score - score) < 1e-12

    @rule(ops=st.lists(puts(), min_size=5, max_size=12))
    def fill(self, ops: list[Op]) -> None:
        self.batch(ops, a=False)

    @rule(ops=st.lists(searches | searches | gets, min_size=5, max_size=12))
    def look(self, ops: list[Op]) -> None:
        self.batch(ops, a=False)

    @rule(ops=st.lists(listings, min_size=3, max_size=6))
    def enumerate(self, ops: list[Op]) -> None:
        self.batch(ops, a=False)

    @rule(minutes=st.sampled_from(STEPS))
    def time_passes(self, minutes: int) -> None:
        self.model.minutes += minutes
        self.connection.execute(
            "UPDATE memkit_items SET expires_at = expires_at - make_interval(mins => %s)",
            (minutes,),
        )

    @rule(op=puts(), by_search=st.booleans(), refresh=st.booleans())
    def read_as_time_passes(self, op: PutOp, by_search: bool, refresh: bool) -> None:
        read: Op = GetOp(op.namespace, op.key, refresh)
        if by_search:
            read = SearchOp(op.namespace, None, 100, 0, None, refresh)
        self.batch([op._replace(ttl=SHORT_TTL)], a=False)
        for _ in range(2):
            self.time_passes(STEPS[0])
            self.batch([read], a=False)

    @rule()
    def sweep(self) -> None:
        self.store.sweep_ttl()
        self.model.batch([])
        (count,) = self.connection.execute("SELECT count(*) FROM memkit_items").fetchall()[0]
        assert count == len(self.model.entries)

    @precondition(lambda self: self.model.entries)
    @rule(op=searches, size=st.integers(1, 3))
    def pages_join_to_the_whole(self, op: SearchOp, size: int) -> None:
        whole = self.store.batch([op._replace(limit=1000, offset=0)])[0]
        self.model.batch([op._replace(limit=1000, offset=0)])
        assert isinstance(whole, list)
        paged: list[Any] = []
        for offset in range(0, len(whole) + size, size):
            page = op._replace(limit=size, offset=offset, refresh_ttl=False)
            paged += self.store.batch([page])[0]  # type: ignore[arg-type]
        assert paged == whole

    @precondition(lambda self: self.model.entries)
    @rule()
    def created_at_stays(self) -> None:
        for address, entry in self.model.entries.items():
            if entry.expires is not None and entry.expires <= self.model.minutes:
                continue
            item = self.store.get(*address, refresh_ttl=False)
            assert item is not None
            known, at = self.created.get(address, (None, item.created_at))
            assert (known == entry.created) == (at == item.created_at) or known is None
            self.created[address] = (entry.created, item.created_at)
            assert (item.created_at == item.updated_at) == (entry.created == entry.updated)


def test_the_store_behaves_as_its_model(dsn: str) -> None:
    index = {"embed": EMBEDDINGS, "dims": EMBEDDINGS.dims, "fields": ["text"]}
    with (
        SemanticStore.from_conn_string(dsn, index=index, search_mode="vector") as store,  # type: ignore[arg-type]
        psycopg.connect(dsn, autocommit=True) as connection,
    ):
        machine = type("Machine", (StoreMachine,), {"store": store, "connection": connection})
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=40,
                stateful_step_count=30,
                deadline=None,
                # `explain` can take longer than finding and shrinking the failure.
                phases=set(Phase) - {Phase.explain},
                report_multiple_bugs=False,
                suppress_health_check=list(HealthCheck),
            ),
        )
