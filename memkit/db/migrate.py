"""Numbered, forward-only, checksummed migrations.

`migrate` is for setup() and the command line alone; everything else calls `verify`.
"""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources

import psycopg
from psycopg import errors as pg
from psycopg import sql

from memkit.db.pool import Connection
from memkit.errors import MigrationError

LOCK_TIMEOUT_S = 60
_LOCK_KEY = 0x6D656D6B6974  # "memkit"
_TABLE = "memkit_migrations"


@dataclass(frozen=True, slots=True)
class Migration:
    """One file of memkit/db/migrations."""

    number: int
    name: str
    text: str

    @property
    def sha256(self) -> str:
        """The checksum under which it is recorded."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def migrations() -> list[Migration]:
    """Return the migrations of this version of memkit, in order."""
    found = []
    for file in resources.files("memkit.db").joinpath("migrations").iterdir():
        number, _, name = file.name.removesuffix(".sql").partition("_")
        if file.name.endswith(".sql"):
            text = file.read_text(encoding="utf-8").replace("\r\n", "\n")
            found.append(Migration(int(number), name, text))
    return sorted(found, key=lambda migration: migration.number)


def migrate(connection: Connection) -> list[int]:
    """Apply what is missing, and return its numbers; any number of processes may call it at once.

    Args:
        connection: In autocommit mode; each migration is one transaction.

    Raises:
        MigrationError: An applied migration was changed, memkit is older than the tables, the
            lock cannot be had, or the database has no pgvector.
    """
    known = migrations()
    missing = _missing(known, _applied(connection))
    applied = []
    for migration in missing:
        with _explained(connection, migration), connection.transaction():
            if _apply(connection, known, migration):
                applied.append(migration.number)
    return applied


def verify(connection: Connection) -> None:
    """Check that every migration was applied, as it is.

    Raises:
        MigrationError: It was not; the message says what to do.
    """
    missing = _missing(migrations(), _applied(connection))
    if missing:
        names = ", ".join(f"{migration.number:04}_{migration.name}" for migration in missing)
        msg = (
            f"memkit's tables in database {connection.info.dbname!r} are missing or older than "
            f"this version (to be applied: {names}); run setup() once"
        )
        raise MigrationError(msg)


def _applied(connection: Connection) -> dict[int, str]:
    """Return the checksums of the applied migrations by number; empty before the first."""
    try:
        with connection.cursor(row_factory=psycopg.rows.tuple_row) as cursor:
            return dict(cursor.execute(f"SELECT number, sha256 FROM {_TABLE}").fetchall())  # noqa: S608 - a constant
    except pg.UndefinedTable:
        return {}


def _missing(known: Sequence[Migration], applied: dict[int, str]) -> list[Migration]:
    numbers = {migration.number for migration in known}
    if newer := sorted(set(applied) - numbers):
        msg = f"the tables were migrated by a newer memkit (migration {newer[-1]}); upgrade memkit"
        raise MigrationError(msg)
    for migration in known:
        if applied.get(migration.number, migration.sha256) != migration.sha256:
            msg = (
                f"migration {migration.number:04}_{migration.name} was changed after it was "
                f"applied (recorded sha256 {applied[migration.number][:12]}…, now "
                f"{migration.sha256[:12]}…); restore the file, and add a new migration instead"
            )
            raise MigrationError(msg)
    return [migration for migration in known if migration.number not in applied]


def _lock(connection: Connection) -> None:
    """Wait for whoever else migrates; the lock ends with the transaction."""
    connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(f"{LOCK_TIMEOUT_S}s"))
    try:
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK_KEY,))
    except pg.LockNotAvailable as error:
        msg = (
            f"another process has been migrating database {connection.info.dbname!r} for "
            f"{LOCK_TIMEOUT_S} s; wait for it, or end it, and run setup() again"
        )
        raise MigrationError(msg) from error
    connection.execute("SET LOCAL lock_timeout = 0")


def _apply(connection: Connection, known: Sequence[Migration], migration: Migration) -> bool:
    """Apply a migration, unless another process was faster."""
    _lock(connection)
    connection.execute(
        f"CREATE TABLE IF NOT EXISTS {_TABLE} (number integer PRIMARY KEY, name text NOT NULL,"
        " sha256 text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
    )
    if migration not in _missing(known, _applied(connection)):
        return False
    connection.execute(migration.text.encode())
    connection.execute(
        f"INSERT INTO {_TABLE} (number, name, sha256) VALUES (%s, %s, %s)",  # noqa: S608 - a constant
        (migration.number, migration.name, migration.sha256),
    )
    return True


@contextlib.contextmanager
def _explained(connection: Connection, migration: Migration) -> Iterator[None]:
    name = f"{migration.number:04}_{migration.name}"
    try:
        yield
    except (pg.FeatureNotSupported, pg.UndefinedFile) as error:
        msg = (
            f"the server of database {connection.info.dbname!r} has no pgvector "
            f"({error.diag.message_primary}); install the extension on the server first"
        )
        raise MigrationError(msg) from error
    except pg.InsufficientPrivilege as error:
        msg = (
            f"migration {name} needs more rights ({error.diag.message_primary}); run "
            "CREATE EXTENSION vector as a superuser, and let this role create tables"
        )
        raise MigrationError(msg) from error
    except psycopg.Error as error:
        msg = f"migration {name} failed and was rolled back: {error.diag.message_primary or error}"
        raise MigrationError(msg) from error
