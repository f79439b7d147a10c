"""Which threads are a person's, and where a checkpointer still holds a text."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from memkit.checkpoints.backend import Backend, Script, Statement
from memkit.checkpoints.memory import MemoryTables
from memkit.checkpoints.postgres import PostgresTables
from memkit.db.traces import Found, search
from memkit.effects import Body
from memkit.errors import ConfigError

Rule: TypeAlias = Callable[[str, Mapping[str, Any]], bool]
"""Says of a thread's id and the metadata of one of its checkpoints whether it is the person's."""

_PAGE = 200
_NAMED_IN_POSTGRES = "SELECT DISTINCT thread_id FROM checkpoints WHERE metadata ->> %s = %s"
_NAMED_IN_SQLITE = """
SELECT DISTINCT thread_id FROM checkpoints
WHERE EXISTS (
    SELECT 1 FROM json_each(CAST(metadata AS TEXT)) WHERE key = ?1 AND CAST(value AS TEXT) = ?2
)
"""


@dataclass(frozen=True, slots=True)
class Owned:
    """A thread, and the other people it belongs to.

    Attributes:
        thread_id: Its id.
        others: Other ids that its checkpoints name under the same key.
    """

    thread_id: str
    others: frozenset[str] = frozenset()


def owned(
    tables: Backend, key: str, user_id: str, rule: Rule | Collection[str] | None
) -> Body[list[Owned]]:
    """Find a person's threads.

    Args:
        tables: Of the checkpointer.
        key: What names the person in the metadata of checkpoints, as LangGraph copies it there
            from `configurable`.
        user_id: The person.
        rule: What says it instead: a rule, or the ids of the threads.
    """
    if isinstance(rule, str):
        raise ConfigError(f"threads is a list of ids or a rule, not the string {rule!r}")
    candidates: list[str]
    if callable(rule):
        candidates = yield from _all_threads(tables)
    elif rule is not None:
        candidates = sorted(set(map(str, rule)))
    else:
        candidates = yield tables.transaction(partial(_named, tables, key, user_id), reading=True)
    found: list[Owned] = []
    for thread_id in candidates:
        metadata: list[Mapping[str, Any]] = yield tables.transaction(
            partial(_metadata, tables, thread_id), reading=True
        )
        names = {str(one[key]) for one in metadata if one.get(key) is not None}
        if metadata and (not callable(rule) or any(rule(thread_id, one) for one in metadata)):
            found.append(Owned(thread_id, frozenset(names - {user_id})))
    return found


def _all_threads(tables: Backend) -> Body[list[str]]:
    found: list[str] = []
    while True:
        after = found[-1] if found else ""
        page: list[str] = yield tables.transaction(
            partial(tables.threads, after, _PAGE), reading=True
        )
        if not page:
            return found
        found += page


def _named(tables: Backend, key: str, user_id: str) -> Script[list[str]]:
    """Find the threads with a checkpoint whose metadata names somebody, in one statement."""
    if isinstance(tables, MemoryTables):
        saver = tables.saver
        return sorted(
            str(thread)
            for thread, namespaces in list(saver.storage.items())
            if any(
                str(saver.serde.loads_typed(metadata).get(key)) == user_id
                for stored in list(namespaces.values())
                for _, metadata, _ in list(stored.values())
            )
        )
    in_postgres = isinstance(tables, PostgresTables)
    rows = yield Statement(_NAMED_IN_POSTGRES if in_postgres else _NAMED_IN_SQLITE, (key, user_id))
    return sorted(next(iter(row.values())) if in_postgres else row[0] for row in rows)


def _metadata(tables: Backend, thread_id: str) -> Script[list[Mapping[str, Any]]]:
    contents = yield from tables.contents(thread_id)
    return [checkpoint.metadata for checkpoint in contents.checkpoints]


def find_text(tables: Backend, texts: Sequence[str]) -> Script[list[Found]]:
    """Find texts in everything that the checkpointer's database holds."""
    if isinstance(tables, PostgresTables):
        return (yield from _in_postgres(texts))
    if isinstance(tables, MemoryTables):
        return _in_memory(tables, texts)
    return (yield from _in_sqlite(texts))


def _in_postgres(texts: Sequence[str]) -> Script[list[Found]]:
    searching = search(texts)
    try:
        query = next(searching)
        while True:
            rows = yield Statement(query.sql, query.params)
            query = searching.send([tuple(row.values()) for row in rows])
    except StopIteration as stop:
        return list(stop.value)


def _in_sqlite(texts: Sequence[str]) -> Script[list[Found]]:
    found = []
    tables = yield Statement("SELECT name FROM sqlite_master WHERE type = 'table'")
    for (table,) in tables:
        name = _quoted(table)
        columns = yield Statement(f"SELECT name FROM pragma_table_info({_quoted(table)})")  # noqa: S608 - quoted
        for (column,) in columns:
            count = (
                f"SELECT count(*) FROM {name} WHERE instr(CAST({_quoted(column)} AS BLOB), ?) > 0"  # noqa: S608 - quoted
            )
            for text in texts:
                rows: set[int] = set()
                for form in {
                    text,
                    json.dumps(text, ensure_ascii=False)[1:-1],
                    json.dumps(text)[1:-1],
                }:
                    [(number,)] = yield Statement(count, (form.encode(),))
                    rows.add(number)
                if any(rows):
                    found.append(Found(f"{table}.{column}", max(rows), text))
    return found


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _in_memory(tables: MemoryTables, texts: Sequence[str]) -> list[Found]:
    saver = tables.saver
    values: dict[str, list[Any]] = {
        "storage": [
            (thread, ns, i, stored)
            for thread, namespaces in list(saver.storage.items())
            for ns, checkpoints in list(namespaces.items())
            for i, stored in list(checkpoints.items())
        ],
        "writes": list(saver.writes.items()),
        "blobs": list(saver.blobs.items()),
    }
    found = []
    for place, entries in values.items():
        flat = [_bytes(entry) for entry in entries]
        for text in texts:
            rows = sum(text.encode() in entry for entry in flat)
            if rows:
                found.append(Found(place, rows, text))
    return found


def _bytes(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, Mapping):
        return b"\0".join(_bytes(part) for pair in value.items() for part in pair)
    if isinstance(value, list | tuple):
        return b"\0".join(map(_bytes, value))
    return str(value).encode("utf-8", "replace")
