"""What a database says of its vectors, and holds everyone to who opens it."""

import json
from typing import Any

from langchain_core.embeddings import Embeddings
from psycopg import sql
from psycopg.rows import tuple_row

from memkit.db.pool import Connection
from memkit.errors import ConfigError, DimensionMismatch
from memkit.store.text import Languages
from memkit.store.vectors import VectorSpace


def stored_dims(connection: Connection) -> int | None:
    """Return the length of the vectors in the database, None if it never held any."""
    dims: int | None = _get(connection, "dims")
    return dims


def languages(connection: Connection, default: str) -> Languages:
    """Return the languages that the server can stem.

    Raises:
        ConfigError: The default is none of them.
    """
    known = frozenset(name for (name,) in _rows(connection, "SELECT cfgname FROM pg_ts_config"))
    Languages("simple", known).checked(default)
    return Languages(default, known)


def claim(connection: Connection, space: VectorSpace, embeddings: Embeddings, place: str) -> None:
    """Record on first use what the vectors are, and compare with it afterwards.

    Raises:
        DimensionMismatch: The vectors in the database have another length, or another model made
            them.
        ConfigError: They are of another type.
    """
    dims = _claimed(connection, "dims", space.dims)
    if dims != space.dims:
        msg = (
            f"{place} holds vectors of {dims} dimensions, but these embeddings have "
            f"{space.dims}; use the embeddings that the vectors were made with, or another database"
        )
        raise DimensionMismatch(msg)
    model = model_of(embeddings)
    stored = _claimed(connection, "model", model) if model else None
    if stored != model:
        msg = (
            f"the vectors in {place} were made by {stored!r}, but these embeddings are {model!r}; "
            "use the embeddings that the vectors were made with, or another database"
        )
        raise DimensionMismatch(msg)
    column = _column_type(connection)
    if column != space.type:
        msg = (
            f"{place} holds vectors of type {column!r}, and the store was opened for "
            f"{space.type!r}; pass index={{'ann_index_config': {{'vector_type': {column!r}}}, ...}}"
        )
        raise ConfigError(msg)


def set_column_type(connection: Connection, space: VectorSpace) -> None:
    """Give the column of vectors the type that is wanted while it holds none."""
    if _column_type(connection) != space.type:
        with connection.transaction():
            connection.execute("LOCK TABLE memkit_passages IN ACCESS EXCLUSIVE MODE")
            if not _rows(
                connection, "SELECT FROM memkit_passages WHERE embedding IS NOT NULL LIMIT 1"
            ):
                connection.execute(
                    sql.SQL("ALTER TABLE memkit_passages ALTER COLUMN embedding TYPE {}").format(
                        sql.Identifier(space.type)
                    )
                )


def model_of(embeddings: Embeddings) -> str | None:
    """Return the name of the model behind embeddings, where they tell it."""
    names = (getattr(embeddings, attribute, None) for attribute in ("model", "model_name"))
    return next((name for name in names if isinstance(name, str) and name), None)


def _claimed(connection: Connection, name: str, value: Any) -> Any:
    """Return what is recorded under a name; `value` if nothing was."""
    stored = _get(connection, name)
    if stored is None:  # a role that may only read gets along without
        connection.execute(
            "INSERT INTO memkit_meta (name, value) VALUES (%s, %s::jsonb)"
            " ON CONFLICT (name) DO NOTHING",
            (name, json.dumps(value)),
        )
        stored = _get(connection, name)
    return stored


def _get(connection: Connection, name: str) -> Any:
    rows = _rows(connection, "SELECT value FROM memkit_meta WHERE name = %s", name)
    return rows[0][0] if rows else None


def _column_type(connection: Connection) -> str:
    [[name]] = _rows(
        connection,
        "SELECT format_type(atttypid, NULL) FROM pg_attribute"
        " WHERE attrelid = 'memkit_passages'::regclass AND attname = 'embedding'",
    )
    return str(name)


def _rows(connection: Connection, statement: str, *params: Any) -> list[Any]:
    with connection.cursor(row_factory=tuple_row) as cursor:
        return cursor.execute(statement, params).fetchall()
