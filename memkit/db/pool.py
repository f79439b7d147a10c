"""Connections to Postgres, and the one place where the driver's errors become memkit's."""

import contextlib
import logging
import re
from collections.abc import Iterator
from typing import Any, TypeAlias, TypedDict

import psycopg
from pgvector.psycopg import register_vector
from psycopg import errors as pg
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout

from memkit.errors import DimensionMismatch, MigrationError, StoreError

logger = logging.getLogger(__name__)

Connection: TypeAlias = psycopg.Connection[Any]
Pool: TypeAlias = ConnectionPool[Connection]

CONNECT_TIMEOUT_S = 10
CHECKOUT_TIMEOUT_S = 10.0
STATEMENT_TIMEOUT_S = 60.0
RECONNECT_S = 0.5

# A host that vanished without a word is given up after half a minute, not after the quarter of an
# hour that TCP takes. Other addresses, such as Unix sockets, ignore them.
_NETWORK = {
    "connect_timeout": CONNECT_TIMEOUT_S,
    "tcp_user_timeout": 30_000,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
}

# The schema is not what the statements expect.
_SCHEMA_ERRORS = (
    pg.UndefinedTable,
    pg.UndefinedColumn,
    pg.UndefinedFunction,
    pg.UndefinedObject,
    pg.InvalidSchemaName,
)


# What operators have to do something about.
_SAYINGS: dict[type[psycopg.Error], str] = {
    pg.QueryCanceled: "ended a statement, as it does with one that takes longer than "
    "statement_timeout_s in pool_config",
    pg.DiskFull: "has no space left on its disk",
    pg.TooManyConnections: "takes no more connections: lower max_size, or raise max_connections",
    pg.AdminShutdown: "was shut down; try again when it is back",
    pg.CrashShutdown: "crashed and is recovering; try again when it is back",
    pg.CannotConnectNow: "is starting up or shutting down; try again in a moment",
    pg.ReadOnlySqlTransaction: "is read-only: is it a standby?",
}

# Who gets no connection gets no SQLSTATE from the driver. The last one is PgBouncer's.
_CROWDED = re.compile(r"too many (clients|connections)|connection slots|no more connections")


class PoolConfig(TypedDict, total=False):
    """Bounds of a connection pool, with the names that PostgresStore uses.

    `min_size` connections are kept (default 1), at most `max_size` are open (default 8), and
    `kwargs` goes to every connection. A statement may take `statement_timeout_s` seconds (default
    60; 0 for ever), but building tables and indexes is not held to it. Behind PgBouncer, which is
    noticed by this, time-outs are those of the role (ALTER ROLE ... SET statement_timeout), and no
    statement is prepared, unless `kwargs` has a `prepare_threshold`.
    """

    min_size: int
    max_size: int | None
    kwargs: dict[str, Any]
    statement_timeout_s: float


def place(conninfo: str) -> str:
    """Return "database 'x' at host:port" for messages; never the password.

    Raises:
        StoreError: `conninfo` is not a connection string.
    """
    try:
        parts = {name: str(value) for name, value in conninfo_to_dict(conninfo).items()}
    except (psycopg.Error, ValueError, TypeError, AttributeError):
        parts = {"port": "unreadable"}
    # An unescaped / or @ in a password makes the rest of it look like a host, port or name.
    torn = "@" in parts.get("host", "") + parts.get("dbname", "")
    if torn or not parts.get("port", "0").replace(",", "").isdigit():
        # The driver's message can quote the string, and so a password: it is not passed on.
        msg = (
            "the database address is not a PostgreSQL connection string; write it as "
            "postgresql://user:password@host:5432/database, with / @ and : in a password "
            "percent-encoded"
        )
        raise StoreError(msg) from None
    host = parts.get("host") or parts.get("hostaddr") or "the default host"
    port = f":{parts['port']}" if parts.get("port") else ""
    name = f"database {parts['dbname']!r}" if parts.get("dbname") else "the default database"
    return f"{name} at {host}{port}"


def _options(conninfo: str, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a connection; a time-out in the address goes before the default."""
    given = conninfo_to_dict(conninfo)
    defaults = {name: value for name, value in _NETWORK.items() if name not in given}
    return {**defaults, **kwargs, "autocommit": True}


@contextlib.contextmanager
def translated(conninfo: str) -> Iterator[None]:
    """Turn an error of the driver into one of memkit's, which says where and what to do.

    Raises:
        MigrationError: A table, column, function or type is missing.
        DimensionMismatch: Vectors of different lengths met, or their column is gone.
        StoreError: Anything else that the database or the pool refused.
    """
    try:
        yield
    except PoolClosed as error:
        raise StoreError("the store is closed; open a new one") from error
    except PoolTimeout as error:
        msg = (
            f"no connection to {place(conninfo)} in time ({error}); is the server up, and is "
            "max_size in pool_config large enough?"
        )
        raise StoreError(msg) from error
    except _SCHEMA_ERRORS as error:
        if isinstance(error, pg.UndefinedColumn) and "embedding" in str(error):
            msg = (
                f"the vectors in {place(conninfo)} were moved to other embeddings; open the store "
                "anew, with those"
            )
            raise DimensionMismatch(msg) from error
        msg = f"{place(conninfo)} lacks memkit's tables ({_said(error)}); run setup() once"
        raise MigrationError(msg) from error
    except pg.DataException as error:
        if "vector dimensions" not in str(error):
            raise StoreError(_refused(conninfo, error)) from error
        msg = (
            f"the vectors stored in {place(conninfo)} have another length ({_said(error)}); "
            "use the embeddings they were made with, or another database, or move to these with "
            "`memkit store reembed`"
        )
        raise DimensionMismatch(msg) from error
    except tuple(_SAYINGS) as error:
        what = next(said for kind, said in _SAYINGS.items() if isinstance(error, kind))
        raise StoreError(
            f"{place(conninfo)} {what} ({_said(error)}); nothing was written"
        ) from error
    except psycopg.OperationalError as error:
        if error.sqlstate is None:
            if _CROWDED.search(str(error)):
                msg = f"{place(conninfo)} {_SAYINGS[pg.TooManyConnections]} ({_said(error)})"
                raise StoreError(msg) from error
            msg = (
                f"cannot reach {place(conninfo)}: {_said(error)}; check the address and the server"
            )
            raise StoreError(msg) from error
        raise StoreError(_refused(conninfo, error)) from error
    except psycopg.Error as error:
        raise StoreError(_refused(conninfo, error)) from error


def connect(conninfo: str, **kwargs: Any) -> Connection:
    """Open one autocommit connection, or fail within `CONNECT_TIMEOUT_S`.

    Raises:
        StoreError: The address is wrong or the database cannot be reached.
    """
    place(conninfo)  # a wrong address fails here, without its text
    with translated(conninfo):
        return psycopg.connect(conninfo, **_options(conninfo, kwargs))


def open_pool(conninfo: str, config: PoolConfig | None = None) -> Pool:
    """Open a pool on a database that has pgvector; vectors travel as numpy arrays.

    Raises:
        StoreError: The database cannot be reached.
    """
    config = config or {}
    options = _options(conninfo, config.get("kwargs", {}))
    pool: Pool = ConnectionPool(
        conninfo,
        min_size=config.get("min_size", 1),
        max_size=pool_size(config),
        kwargs=_with_settings(
            conninfo, options, config.get("statement_timeout_s", STATEMENT_TIMEOUT_S)
        ),
        configure=register_vector,
        timeout=CHECKOUT_TIMEOUT_S,
        # A server that went away is tried twice a second while somebody waits for it, and not at
        # all in between; the pool's own pace would slow down to one try in four seconds.
        reconnect_timeout=RECONNECT_S,
        reconnect_failed=_try_again,
        name="memkit",
        open=False,
    )
    # Not waited for: it can be reached, and who needs a connection first waits for that one only.
    pool.open()
    return pool


def _try_again(pool: ConnectionPool[Any]) -> None:
    """Let a pool try to connect again, if somebody waits for it."""
    if pool.get_stats().get("requests_waiting"):
        pool.check()


def _with_settings(conninfo: str, options: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    """Return options with the settings of a session, or behind PgBouncer without any.

    A statement has a time-out, and is planned once rather than each time: that takes a third of a
    small search. PgBouncer refuses settings or, told to ignore such parameters, loses them, and
    whatever is set later would stay with a connection that serves others; so would a prepared
    statement.
    """
    settings = options.get("options") or conninfo_to_dict(conninfo).get("options") or ""
    wanted = {
        "statement_timeout": int(1000 * timeout_s),
        "plan_cache_mode": "force_generic_plan",
    }
    added = [f" -c {name}={value}" for name, value in wanted.items() if name not in str(settings)]
    with_settings = {**options, "options": f"{settings}{''.join(added)}"}
    with translated(conninfo):
        try:
            with psycopg.connect(conninfo, **with_settings) as connection:
                is_taken = connection.execute(_IS_TAKEN).fetchone() == (True,)
        except psycopg.OperationalError as error:
            if "startup parameter" not in str(error):
                raise
            is_taken = False
    if is_taken:
        return with_settings
    logger.info("statements to %s have no time-out: PgBouncer takes none", place(conninfo))
    return {"prepare_threshold": None, **options}


_IS_TAKEN = "SELECT source = 'client' FROM pg_settings WHERE name = 'statement_timeout'"


def pool_size(config: PoolConfig | None) -> int:
    """Return the most connections that a pool of this configuration opens."""
    config = config or {}
    return max(config.get("max_size") or 8, config.get("min_size", 1))


def _said(error: psycopg.Error) -> str:
    """Return the first line of what the server or the driver said."""
    lines = (error.diag.message_primary or str(error)).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _refused(conninfo: str, error: psycopg.Error) -> str:
    state = f" (SQLSTATE {error.sqlstate})" if error.sqlstate else ""
    return f"{place(conninfo)} refused a statement: {_said(error)}{state}; nothing was written"
