"""History and reads as of a moment against a plain model: a list of versions per address."""

import asyncio
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from langgraph.store.base import PutOp

from memkit.effects import PutIf
from memkit.errors import VersionConflict
from memkit.store import SemanticStore

Namespace = tuple[str, ...]
Place = tuple[Namespace, str]

places: list[Namespace] = [("a",), ("a", "b"), ("a", "b", "c"), ("a", "b-"), ("d", "b")]
values = st.none() | st.fixed_dictionaries({"n": st.integers(0, 3)})
# What is asked of the version: nothing, the one there is, none at all, or one that is not there.
asked = st.sampled_from([None, None, None, "right", "absent", "wrong"])
puts = st.tuples(st.sampled_from(places), st.sampled_from(["k", "l\x00"]), values, asked)
batches = st.lists(
    st.lists(puts, min_size=1, max_size=4, unique_by=lambda put: put[:2]), min_size=1, max_size=12
)
filters = st.sampled_from([None, {"n": 1}, {"n": {"$gte": 2}}, {"n": {"$ne": 0}}])
prefixes = st.sampled_from([(), *places, ("a", "nowhere")])
pages = st.tuples(st.sampled_from([10, 2, 0]), st.sampled_from([0, 1]))
looks = st.lists(st.tuples(prefixes, filters, pages), min_size=1, max_size=3)


@dataclass
class Version:
    """One version: it stood from its batch to the one that replaced it."""

    number: int
    value: dict[str, Any]
    since: int
    until: int | None = None
    created: int = 0


class Model:
    """All versions by address; time is the number of the batch."""

    def __init__(self) -> None:
        self.versions: dict[Place, list[Version]] = {}

    def current(self, place: Place) -> Version | None:
        known = self.versions.get(place)
        return known[-1] if known and known[-1].until is None else None

    def put(self, place: Place, value: dict[str, Any] | None, now: int) -> None:
        old = self.current(place)
        if old is not None:
            old.until = now
        if value is not None:
            known = self.versions.setdefault(place, [])
            created = old.created if old else now
            known.append(Version(len(known) + 1, value, now, None, created))

    def at(self, moment: int) -> dict[Place, Version]:
        return {
            place: version
            for place, versions in self.versions.items()
            for version in versions
            if version.since <= moment and (version.until is None or version.until > moment)
        }


def matches(value: dict[str, Any], wanted: dict[str, Any] | None) -> bool:
    n = value["n"]
    return wanted in (None, {"n": n}) or (
        (wanted == {"n": {"$gte": 2}} and n >= 2) or (wanted == {"n": {"$ne": 0}} and n != 0)
    )


def operation(model: Model, put: Any) -> tuple[Any, bool]:
    """Return an operation, and whether the store is to take it."""
    namespace, key, value, how = put
    op = PutOp(namespace, key, value)
    current = model.current((namespace, key))
    if how is None or (how == "absent" and value is None):
        return op, True
    if how == "absent":
        return PutIf(op, 0), current is None
    number = current.number if current else 1
    return PutIf(op, number if how == "right" else number + 1), how == "right" and bool(current)


def test_history_is_that_of_the_model(dsn: str) -> None:
    with (
        SemanticStore.open(dsn, search_mode="text") as store,
        psycopg.connect(dsn, autocommit=True) as connection,
    ):

        @settings(
            max_examples=60,
            deadline=None,
            phases=set(Phase) - {Phase.explain},
            suppress_health_check=list(HealthCheck),
        )
        @given(batches=batches, looks=looks, a=st.booleans())
        def check(batches: list[Any], looks: list[Any], a: bool) -> None:
            connection.execute("TRUNCATE memkit_items, memkit_history CASCADE")
            model, moments = written(store, connection, batches, a)
            for place in [(namespace, key) for namespace in places for key in ("k", "l\x00")]:
                compare_versions(store, model, place, a)
                for number, moment in enumerate(moments):
                    get = store.get(*place, as_of=moment)
                    wanted = model.at(number).get(place)
                    assert (get and get.value) == (wanted and wanted.value)
            for look in looks:
                for number, moment in enumerate(moments):
                    compare_hits(store, model.at(number), look, moment, a)

        check()


def written(
    store: SemanticStore, connection: psycopg.Connection[Any], batches: list[Any], a: bool
) -> tuple[Model, list[datetime]]:
    model = Model()
    moments: list[datetime] = []
    for number, puts in enumerate([[], *batches]):
        ops = [operation(model, put) for put in puts]
        run: Any = (lambda ops: asyncio.run(store.abatch(ops))) if a else store.batch
        try:
            run([op for op, _ in ops])
        except VersionConflict:
            assert not all(taken for _, taken in ops)
        else:
            assert all(taken for _, taken in ops)
            for namespace, key, value, _ in puts:
                model.put((namespace, key), value, number)
        moments += connection.execute("SELECT clock_timestamp()").fetchall()[0]
    return model, moments


def compare_versions(store: SemanticStore, model: Model, place: Place, a: bool) -> None:
    found = asyncio.run(store.ahistory(*place)) if a else store.history(*place)
    known = model.versions.get(place, [])[::-1]
    assert [(i.version, i.value, i.ended_at is None) for i in found] == [
        (version.number, version.value, version.until is None) for version in known
    ]
    for newer, older, version in zip(found, found[1:], known, strict=False):
        assert older.ended_at is not None
        assert older.updated_at <= older.ended_at <= newer.updated_at
        assert (newer.created_at == older.created_at) == (version.created != version.since)


def compare_hits(
    store: SemanticStore, stood: dict[Place, Version], look: Any, moment: datetime, a: bool
) -> None:
    prefix, filter_, (limit, offset) = look
    search: Any = (lambda *p, **k: asyncio.run(store.asearch(*p, **k))) if a else store.search
    hits = search(prefix, filter=filter_, limit=limit, offset=offset, as_of=moment)
    wanted = [
        (-version.since, ".".join(namespace), key, version)
        for (namespace, key), version in stood.items()
        if namespace[: len(prefix)] == prefix and matches(version.value, filter_)
    ]
    wanted.sort(key=lambda each: each[:3])
    assert [(".".join(hit.namespace), hit.key, hit.value, hit.version) for hit in hits] == [
        (namespace, key, version.value, version.number)
        for _, namespace, key, version in wanted[offset : offset + limit]
    ]
