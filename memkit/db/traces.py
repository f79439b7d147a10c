"""Searching a whole database for text: every table and column that the connection can see."""

import json
from collections.abc import Generator, Sequence
from typing import Any, NamedTuple

from psycopg import sql


class Query(NamedTuple):
    """A statement and its parameters; its rows are sent back."""

    sql: str
    params: Sequence[Any]


class Found(NamedTuple):
    """Where a text stands.

    Attributes:
        place: The table and column.
        rows: How many rows hold it.
        text: What was found.
    """

    place: str
    rows: int
    text: str


_COLUMNS = """
SELECT c.relname::text, a.attname::text, t.typname::text
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
JOIN pg_type t ON t.oid = a.atttypid
WHERE c.relkind IN ('r', 'p', 'm') AND NOT c.relispartition AND pg_table_is_visible(c.oid)
    AND n.nspname NOT IN ('pg_catalog', 'information_schema')
    AND has_column_privilege(c.oid, a.attnum, 'SELECT')
    AND t.typname IN ('text', 'varchar', 'bpchar', 'json', 'jsonb', 'bytea', '_text', '_varchar')
ORDER BY c.relname, a.attnum
"""
_COUNT = sql.SQL("""
SELECT texts.number - 1, count(*) FROM unnest(%s::{type}[]) WITH ORDINALITY AS texts (text, number)
JOIN {table} AS searched ON position(texts.text IN searched.{column}::{type}) > 0
GROUP BY 1 ORDER BY 1
""")


def search(texts: Sequence[str]) -> Generator[Query, list[Any], list[Found]]:
    """Find texts in every visible table.

    JSON is searched for the text as JSON writes it, binary columns for its UTF-8 bytes.

    Args:
        texts: What to look for, each as it is.

    Returns:
        One entry per text and column that holds it.

    Cost:
        A scan of every table per text.
    """
    found: list[Found] = []
    if not texts:
        return found
    for table, column, kind in (yield Query(_COLUMNS, ())):
        wanted: list[Any] = list(texts)
        if kind in {"json", "jsonb"}:
            wanted = [json.dumps(text, ensure_ascii=False)[1:-1] for text in texts]
        elif kind == "bytea":
            wanted = [text.encode() for text in texts]
        query = _COUNT.format(
            type=sql.SQL("bytea" if kind == "bytea" else "text"),
            table=sql.Identifier(table),
            column=sql.Identifier(column),
        )
        rows = yield Query(query.as_string(None), (wanted,))
        found += [Found(f"{table}.{column}", count, texts[number]) for number, count in rows]
    return found
