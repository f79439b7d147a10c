"""Tenants: hidden from each other by the database, and in every key and statement."""

import asyncio
import os
import re
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from langgraph.store.base import GetOp, Item, Op, PutOp, SearchOp

from memkit.db.migrate import migrations
from memkit.effects import PutIf
from memkit.errors import MigrationError
from memkit.store import SemanticStore, indexes
from memkit.store.tenants import TABLES
from tests.fakes import HashEmbeddings

ANN, BOB = ("users", "ann", "facts"), ("users", "bob", "facts")


def rows(dsn: str, statement: str, *before: str) -> list[Any]:
    with psycopg.connect(dsn) as connection:
        for setting in before:
            connection.execute(setting.encode())
        return connection.execute(statement.encode()).fetchall()


# Row-level security


def test_who_has_not_named_a_tenant_sees_nothing(role: str) -> None:
    with SemanticStore.open(role, embed=HashEmbeddings()) as store:
        store.setup()
        store.put(ANN, "a", {"text": "tea"})
        store.setup(row_level_security=True)
        store.setup(row_level_security=True)
        store.put(BOB, "b", {"text": "tea"})
        for namespace, key in ((ANN, "a"), (BOB, "b")):
            store.put(namespace, key, {"text": "coffee"})
    for table in TABLES:
        count = f"SELECT count(*) FROM {table}"
        assert rows(role, count) == [(0,)]
        assert rows(role, count, "SET memkit.tenants = '{users.ann}'") == [(1,)]
        assert rows(role, count, "SET memkit.tenants = '{users.ann,users.bob}'") == [(2,)]
        assert rows(role, count, "SET memkit.all_tenants = on") == [(2,)]
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        rows(
            role,
            "INSERT INTO memkit_items SELECT 'x.y', 'x.y', 'k', '{}', now(), now() RETURNING 1",
        )


def test_the_store_names_its_tenants(role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexes, "PAYS_FROM", 50)
    monkeypatch.setattr(indexes, "_SLOW_S", 60.0)
    with SemanticStore.open(role, embed=HashEmbeddings(), ttl={"default_ttl": None}) as store:
        store.setup(row_level_security=True)
    with SemanticStore.open(role, embed=HashEmbeddings(), ttl={"default_ttl": None}) as store:
        store.batch([PutOp(ANN, str(n), {"text": f"tea {n}"}) for n in range(80)])
        store.put(BOB, "b", {"text": "tea"}, ttl=0.001)
        store.put(ANN, "0", {"text": "coffee"}, if_version=1)
        got = store.batch([GetOp(ANN, "0"), SearchOp(BOB, query="tea"), SearchOp(("users",))])
        assert got[0] is not None
        assert len(store.search(ANN, query="tea 7")) == 10
        assert len(store.search(("users",), query="tea", limit=100)) >= 80
        assert asyncio.run(store.aget(ANN, "1")) is not None
        assert store.list_namespaces(prefix=("users", "ann")) == [ANN]
        assert len(store.history(ANN, "0")) == 2
        moment = datetime.now(UTC)
        store.delete(ANN, "1")
        assert store.get(ANN, "1", as_of=moment) is not None
        assert len(store.search(ANN[:1], as_of=moment, limit=100)) >= 80
        assert store.get(ANN, "1") is None
        assert {built.scope for built in store.build_indexes()} == {"users.ann", ""}
        assert len(store.search(ANN, query="tea 7")) == 10
        asyncio.run(asyncio.sleep(0.1))
        assert store.sweep_ttl() == 1
        assert store.erase(ANN[:2]).versions > 1
        assert store.search(ANN) == []


# Every key and statement


def test_every_key_of_a_distributed_table_begins_with_the_tenant(dsn: str) -> None:
    keys = rows(
        dsn,
        "SELECT conrelid::regclass::text, contype, (SELECT attname FROM pg_attribute"
        " WHERE attrelid = conrelid AND attnum = conkey[1]) FROM pg_constraint"
        " WHERE contype IN ('p', 'u', 'f') AND conrelid::regclass::text = ANY"
        f" ('{{{','.join(TABLES)}}}') ORDER BY 1, 2",
    )
    assert {(table, kind) for table, kind, _ in keys} >= {(table, "p") for table in TABLES}
    assert {first for _, _, first in keys} == {"tenant"}
    unique = rows(
        dsn,
        "SELECT indexrelid::regclass::text FROM pg_index WHERE indisunique AND NOT indisprimary"
        f" AND indrelid::regclass::text = ANY ('{{{','.join(TABLES)}}}')",
    )
    assert unique == []
    text = "\n".join(migration.text for migration in migrations()).lower()
    assert not re.search(
        r"create (constraint )?trigger|nextval|serial|generated .* as identity", text
    )


class _Noting(psycopg.Cursor[Any]):
    """A cursor that notes what is executed."""

    noted: list[str] = []  # noqa: RUF012 - one test reads it

    def execute(self, query: Any, *args: Any, **kwargs: Any) -> Any:
        self.noted.append(str(query))
        return super().execute(query, *args, **kwargs)


_TABLE = re.compile(
    r"\b(FROM|JOIN|INTO|UPDATE)\s+(memkit_(?:items|passages|history))(?:\s+(?:AS\s+)?(\w+))?"
)


def without_tenant(statement: str) -> list[str]:
    """Return the references to a tenant's table that no `tenant = %(tenant)s` stands beside."""
    missing = []
    for verb, table, alias in _TABLE.findall(statement):
        if verb == "INTO":
            continue  # rows bring their tenant along
        known = alias if alias.lower() not in {"where", "set", "using", ""} else ""
        own = rf"\b{known}\.tenant = %\(tenant\)s" if known else r"\btenant = %\(tenant\)s"
        if not re.search(own, statement):
            missing.append(f"{table} {alias}")
    return missing


def test_the_judge_of_statements_can_say_no() -> None:
    good = "SELECT FROM memkit_items i WHERE i.tenant = %(tenant)s"
    assert without_tenant(good) == []
    assert without_tenant(good.replace("%(tenant)s", "p.tenant")) == ["memkit_items i"]
    joined = f"{good} AND EXISTS (SELECT FROM memkit_passages p WHERE p.tenant = i.tenant)"
    assert without_tenant(joined) == ["memkit_passages p"]


@pytest.mark.parametrize("mode", ["hybrid", "vector", "text"])
def test_every_statement_of_one_tenant_names_it(
    dsn: str, mode: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexes, "PAYS_FROM", 50)
    monkeypatch.setattr(indexes, "_BELIEVED_S", 0.0)
    monkeypatch.setattr(indexes, "_SLOW_S", 60.0)
    monkeypatch.setattr(_Noting, "noted", [])
    puts: list[Op | PutIf] = [PutOp(ANN, str(n), {"text": f"tea {n}"}, ttl=9) for n in range(99)]
    with SemanticStore.open(
        dsn, embed=HashEmbeddings(), search_mode=mode, pool_config={"kwargs": {}}
    ) as plain:
        plain.setup()
        plain.batch(puts)
    noting: Any = {"kwargs": {"cursor_factory": _Noting}}
    with SemanticStore.open(
        dsn, embed=HashEmbeddings(), search_mode=mode, pool_config=noting
    ) as store:
        store.get(ANN, "1")
        _Noting.noted.clear()
        for _ in range(2):
            store.batch([*puts[:9], PutOp(ANN, "gone", None)])
            store.batch([PutIf(PutOp(ANN, "new", {"text": "new"}), 0)])
            version = store.history(ANN, "new", limit=1)[0].version
            store.batch([PutIf(PutOp(ANN, "new", {"text": "newer"}), version)])
            store.batch([PutIf(PutOp(ANN, "new", None), version + 1)])
            store.batch([GetOp(ANN, "1"), GetOp(ANN, "2")])
            for prefix in (ANN, ANN[:2]):
                for wanted in (None, {"n": 1}, {"n": {"$gt": 3}}):
                    store.search(prefix, query="tea", filter=wanted)
                    store.search(prefix, filter=wanted, limit=200)
            statements = [text for text in _Noting.noted if "memkit_items" in text]
            assert len(statements) > 15
            for statement in _Noting.noted:
                assert without_tenant(statement) == [], statement
            store.history(ANN, "1")
            store.get(ANN, "1", as_of=datetime.now(UTC))
            store.search(ANN, as_of=datetime.now(UTC))
            store.erase(BOB)
            for statement in _Noting.noted:
                assert without_tenant(statement) == [], statement
            store.build_indexes()
            _Noting.noted.clear()


def test_on_citus_each_tenant_has_statements_of_its_own(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexes, "_SLOW_S", 60.0)  # nothing is built beside it
    noting: Any = {"kwargs": {"cursor_factory": _Noting}}
    everyone = [ANN, BOB]
    with SemanticStore.open(dsn, embed=HashEmbeddings(), pool_config=noting) as store:
        store.setup()
        store.put(ANN, "k", {"text": "cocoa"})
        monkeypatch.setattr(store, "_is_distributed", True)
        monkeypatch.setattr(_Noting, "noted", [])
        store.batch([PutOp(where, "k", {"text": "tea"}) for where in everyone])
        store.batch([PutOp(where, "k", {"text": "tea", "n": 2}) for where in everyone])
        found = store.batch([GetOp(where, "k") for where in everyone])
        assert [item.value for item in found if isinstance(item, Item)] == [
            {"text": "tea", "n": 2} for _ in everyone
        ]
        for where in everyone:
            assert len(store.search(where, query="tea")) == 1
        store.batch([PutOp(where, "k", None) for where in everyone])
        assert store.batch([GetOp(where, "k") for where in everyone]) == [None, None]
        store.batch([PutOp(where, "k", {"text": "milk"}) for where in everyone])
        assert [len(store.history(where, "k")) for where in everyone] == [4, 3]
        for statement in _Noting.noted:
            assert without_tenant(statement) == [], statement


def test_a_server_without_citus_says_so(dsn: str) -> None:
    with (
        SemanticStore.open(dsn, search_mode="text") as store,
        pytest.raises(MigrationError, match="has no Citus"),
    ):
        store.setup(distributed=True)


CITUS = os.environ.get("MEMKIT_TEST_CITUS_DSN")


@pytest.mark.skipif(not CITUS, reason="set MEMKIT_TEST_CITUS_DSN to the coordinator of a cluster")
def test_on_citus_all_works_as_on_one_machine() -> None:
    assert CITUS
    with SemanticStore.open(CITUS, embed=HashEmbeddings()) as store:
        store.setup(distributed=True)
        store.setup(distributed=True)
        store.batch([PutOp(where, "k", {"text": "tea"}) for where in (ANN, BOB)])
        store.put(ANN, "k", {"text": "coffee"}, if_version=1)
        assert store.search(ANN, query="coffee")[0].key == "k"
        assert len(store.search(("users",), query="tea")) == 2
        assert set(store.list_namespaces(prefix=("users",))) >= {ANN, BOB}
        store.delete(ANN, "k")
        assert store.get(ANN, "k") is None
        plan = rows(CITUS, "EXPLAIN SELECT FROM memkit_items WHERE tenant = 'users.bob'")
        assert "Task Count: 1" in str(plan)
