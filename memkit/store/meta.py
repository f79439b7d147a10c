"""What a database says of its vectors, and holds everyone to who opens it."""

import json
from dataclasses import replace
from typing import Any

from langchain_core.embeddings import Embeddings
from psycopg import sql
from psycopg.rows import tuple_row

from memkit.db.pool import Connection
from memkit.errors import ConfigError, DimensionMismatch
from memkit.store import tenants
from memkit.store.text import Languages
from memkit.store.vectors import FIRST_COLUMN, VectorSpace

_OTHERS = (
    "use the embeddings that the vectors were made with, or another database, or move to the new "
    "ones with `memkit store reembed`"
)


def stored_dims(connection: Connection) -> int | None:
    """Return the length of the vectors in the database, None if it never held any."""
    dims: int | None = get(connection, "dims")
    return dims


def languages(connection: Connection, default: str) -> Languages:
    """Return the languages that the server can stem.

    Raises:
        ConfigError: The default is none of them.
    """
    known = frozenset(name for (name,) in _rows(connection, "SELECT cfgname FROM pg_ts_config"))
    Languages("simple", known).checked(default)
    return Languages(default, known)


def claim(
    connection: Connection, space: VectorSpace, embeddings: Embeddings, place: str
) -> VectorSpace:
    """Record on first use what the vectors are, and compare with it afterwards.

    Returns:
        The space, in the column where its vectors are now.

    Raises:
        DimensionMismatch: The vectors in the database have another length, or another model made
            them.
        ConfigError: They are of another type.
    """
    model = model_of(embeddings)
    _claim_unless_taken(connection, "dims", space.dims)
    if model and stored_dims(connection) == space.dims:
        _claim_unless_taken(connection, "model", model)
    # In one statement: a move to other embeddings changes all of them at one moment.
    names = "SELECT name, value FROM memkit_meta WHERE name IN ('dims', 'model', 'vectors')"
    stored = dict(_rows(connection, names))
    if (dims := stored.get("dims")) != space.dims:
        msg = (
            f"{place} holds vectors of {dims} dimensions, but these embeddings have "
            f"{space.dims}; {_OTHERS}"
        )
        raise DimensionMismatch(msg)
    if model and stored.get("model") != model:
        msg = (
            f"the vectors in {place} were made by {stored.get('model')!r}, but these embeddings "
            f"are {model!r}; {_OTHERS}"
        )
        raise DimensionMismatch(msg)
    space = replace(space, name=str(stored.get("vectors") or FIRST_COLUMN))
    type_ = column_type(connection, space.name)
    if type_ != space.type:
        msg = (
            f"{place} holds vectors of type {type_!r}, and the store was opened for "
            f"{space.type!r}; pass index={{'ann_index_config': {{'vector_type': {type_!r}}}, ...}}"
        )
        raise ConfigError(msg)
    return space


def set_column_type(connection: Connection, space: VectorSpace) -> None:
    """Give the column of vectors the type that is wanted while it holds none."""
    name = column(connection)
    if column_type(connection, name) != space.type:
        with connection.transaction():
            connection.execute("LOCK TABLE memkit_passages IN ACCESS EXCLUSIVE MODE")
            names = {"name": sql.Identifier(name), "type": sql.Identifier(space.type)}
            any_ = sql.SQL("SELECT FROM memkit_passages WHERE {name} IS NOT NULL LIMIT 1")
            if not connection.execute(any_.format(**names)).fetchall():
                change = sql.SQL("ALTER TABLE memkit_passages ALTER COLUMN {name} TYPE {type}")
                connection.execute(change.format(**names))
                keep_in_row(connection, name)


def keep_in_row(connection: Connection, name: str) -> None:
    """Keep a column of vectors in the rows: a search reads all those of a small tenant."""
    if not tenants.is_distributed(connection):  # Citus sets no storage of what is distributed
        keep = sql.SQL("ALTER TABLE memkit_passages ALTER COLUMN {} SET STORAGE MAIN")
        connection.execute(keep.format(sql.Identifier(name)))


def column(connection: Connection) -> str:
    """Return the name of the column that holds the vectors."""
    return str(get(connection, "vectors") or FIRST_COLUMN)


def column_type(connection: Connection, name: str) -> str:
    """Return the type of a column of vectors, pgvector's."""
    [[type_]] = _rows(
        connection,
        "SELECT format_type(atttypid, NULL) FROM pg_attribute"
        " WHERE attrelid = 'memkit_passages'::regclass AND attname = %s",
        name,
    )
    return str(type_)


def model_of(embeddings: Embeddings) -> str | None:
    """Return the name of the model behind embeddings, where they tell it."""
    names = (getattr(embeddings, attribute, None) for attribute in ("model", "model_name"))
    return next((name for name in names if isinstance(name, str) and name), None)


def put(connection: Connection, name: str, value: Any) -> None:
    """Record a value under a name; None takes away what was recorded."""
    if value is None:
        connection.execute("DELETE FROM memkit_meta WHERE name = %s", (name,))
        return
    connection.execute(
        "INSERT INTO memkit_meta (name, value) VALUES (%s, %s::jsonb)"
        " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        (name, json.dumps(value)),
    )


def _claim_unless_taken(connection: Connection, name: str, value: Any) -> None:
    """Record a value under a name if nothing is."""
    if get(connection, name) is None:  # a role that may only read gets along without
        connection.execute(
            "INSERT INTO memkit_meta (name, value) VALUES (%s, %s::jsonb)"
            " ON CONFLICT (name) DO NOTHING",
            (name, json.dumps(value)),
        )


def get(connection: Connection, name: str) -> Any:
    """Return what is recorded under a name, None if nothing is."""
    rows = _rows(connection, "SELECT value FROM memkit_meta WHERE name = %s", name)
    return rows[0][0] if rows else None


def _rows(connection: Connection, statement: str, *params: Any) -> list[Any]:
    with connection.cursor(row_factory=tuple_row) as cursor:
        return cursor.execute(statement, params).fetchall()
