"""One embedded Postgres for the whole run, and a fresh database for every test."""

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
import pytest
from hypothesis import settings
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from memkit.local import postgres
from memkit.store import SemanticStore
from memkit.store.tenants import TABLES
from tests.fakes import HashEmbeddings

# No time limit for an example: machines are noisy. In CI the examples are the same on every run.
settings.register_profile("memkit", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("memkit")

_numbers = itertools.count()


@dataclass(frozen=True)
class Server:
    """A running Postgres: `dsn` is its maintenance database, `template` has the store's tables."""

    dsn: str
    template: str

    def create(self, template: str | None = None) -> str:
        """Create a database and return its DSN."""
        name = f"test_{next(_numbers)}"
        statement = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
        if template:
            statement += sql.SQL(" TEMPLATE {}").format(sql.Identifier(template))
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(statement)
        return make_conninfo(self.dsn, dbname=name)

    def drop(self, dsn: str) -> None:
        """Drop a database, whoever is connected."""
        name = sql.Identifier(str(conninfo_to_dict(dsn)["dbname"]))
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    # Not in pytest's directory: as root the server runs as another user, whom every further run of
    # pytest shuts out of it.
    with TemporaryDirectory(prefix="memkit-") as place, postgres(Path(place, "data")) as dsn:
        server = Server(dsn, "memkit_template")
        with psycopg.connect(dsn, autocommit=True) as connection:
            # The data is thrown away: no need to wait for the disk.
            connection.execute("ALTER SYSTEM SET fsync = off")
            connection.execute("ALTER SYSTEM SET full_page_writes = off")
            connection.execute("SELECT pg_reload_conf()")
            connection.execute("CREATE DATABASE memkit_template")
        template = make_conninfo(dsn, dbname=server.template)
        with SemanticStore.open(template, search_mode="text") as store:
            store.setup()
        yield server


@pytest.fixture
def empty_dsn(server: Server) -> Iterator[str]:
    """A database without any table."""
    dsn = server.create()
    yield dsn
    server.drop(dsn)


@pytest.fixture
def dsn(server: Server) -> Iterator[str]:
    """A database with the store's tables, and nothing in them."""
    dsn = server.create(server.template)
    yield dsn
    server.drop(dsn)


@pytest.fixture
def role(dsn: str) -> Iterator[str]:
    """A DSN of a role that is no superuser, and owns the tables."""
    name = "memkit_app"
    tables = (*TABLES, "memkit_meta", "memkit_migrations", "memkit_indexes")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"DROP ROLE IF EXISTS {name}".encode())
        connection.execute(f"CREATE ROLE {name} LOGIN".encode())
        connection.execute(f"GRANT ALL ON SCHEMA public TO {name}".encode())
        for table in tables:
            connection.execute(f"ALTER TABLE {table} OWNER TO {name}".encode())
    yield make_conninfo(dsn, user=name)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(f"DROP OWNED BY {name}".encode())
        connection.execute(f"DROP ROLE {name}".encode())


@pytest.fixture
def embeddings() -> HashEmbeddings:
    return HashEmbeddings()


@pytest.fixture
def store(dsn: str, embeddings: HashEmbeddings) -> Iterator[SemanticStore]:
    """A hybrid store over the field "text"."""
    with SemanticStore.open(dsn, embed=embeddings, dims=embeddings.dims) as store:
        yield store


@pytest.fixture
def fresh_dsn(server: Server) -> Callable[[], object]:
    """A context manager of databases, for tests that need several."""

    @contextmanager
    def fresh() -> Iterator[str]:
        dsn = server.create(server.template)
        try:
            yield dsn
        finally:
            server.drop(dsn)

    return fresh
