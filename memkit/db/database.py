"""Transactions on one pool, for sync and async callers alike."""

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import psycopg
from psycopg import errors as pg
from psycopg_pool import PoolTimeout

from memkit.db.pool import (
    Connection,
    Pool,
    PoolConfig,
    connect,
    open_pool,
    place,
    pool_size,
    translated,
)
from memkit.errors import CommitUnknown, StoreError

T = TypeVar("T")
Work = Callable[[Connection], T]

# Transactions of other programs may cross ours; Postgres ends one of the two, which runs again. So
# does what found its connection broken, unless it was about to commit: that may have been done.
_ATTEMPTS = 5


class Database:
    """A Postgres database: a pool that opens at first use, and transactions on it.

    Async callers run on as many threads as the pool has connections: from any event loop, and a
    cancelled call still ends its transaction and gives its connection back.
    """

    def __init__(
        self,
        conninfo: str,
        *,
        pool_config: PoolConfig | None = None,
        check: Callable[[Connection], None],
    ) -> None:
        """Remember the address; `check` sees one connection before the pool opens."""
        self.conninfo = conninfo
        self.place = place(conninfo)
        self._config: PoolConfig = pool_config or {}
        self._check = check
        self._pool: Pool | None = None
        # Threads start when they are used.
        self._threads = ThreadPoolExecutor(pool_size(self._config), "memkit-store")
        self._pid = os.getpid()
        self._closed = False
        self._lock = threading.Lock()

    def connect(self) -> Connection:
        """Open a connection of its own, outside the pool."""
        self._refuse_if_closed()
        return connect(self.conninfo, **self._config.get("kwargs", {}))

    def run(self, work: Work[T], *, writes: bool = True) -> T:
        """Run `work`, and again if Postgres ended it for a deadlock or the connection broke.

        Args:
            work: What to do on a connection.
            writes: Whether it is one transaction: all of it or nothing. Otherwise each statement
                stands for itself, which saves two round trips.

        Raises:
            CommitUnknown: The connection broke during the commit.
            StoreError: See `memkit.db.pool.translated`; nothing was written.
        """
        pool = self._opened()
        with translated(self.conninfo):
            for attempt in range(1, _ATTEMPTS + 1):
                connection: Connection | None = None
                committing = False
                try:
                    with pool.connection() as connection:
                        if not writes:
                            return work(connection)
                        with connection.transaction():
                            result = work(connection)
                            committing = True
                        return result
                except (pg.DeadlockDetected, pg.SerializationFailure):
                    if attempt == _ATTEMPTS:
                        raise
                except PoolTimeout as error:
                    self.connect().close()  # says it, if the server is what is wrong
                    msg = (
                        f"no connection to {self.place} became free in time: all "
                        f"{pool_size(self._config)} of the pool were in use, or the server was "
                        "away until now; raise max_size in pool_config, or make fewer calls at once"
                    )
                    raise StoreError(msg) from error
                except (psycopg.OperationalError, psycopg.InterfaceError) as error:
                    if connection is None or not connection.closed:
                        raise
                    if committing:
                        msg = (
                            f"the connection to {self.place} broke while it committed: all was "
                            "written, or nothing; look before you write it again"
                        )
                        raise CommitUnknown(msg) from error
                    if attempt == _ATTEMPTS:
                        raise
                    pool.check()  # a server that went away leaves every connection broken
        raise AssertionError  # pragma: no cover - the loop returns or raises

    async def arun(self, work: Work[T], *, writes: bool = True) -> T:
        """Run `work` as `run` does, on a thread."""
        return await self.in_thread(partial(self.run, work, writes=writes))

    async def in_thread(self, function: Callable[..., T], *args: Any) -> T:
        """Call a blocking function on one of the threads of this database."""
        self._refuse_if_closed()
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)

    def close(self) -> None:
        """Close the pool once what async callers began has ended; a second call does nothing."""
        if self.is_inherited:
            return
        with self._lock:
            self._closed = True
            pool, self._pool = self._pool, None
        self._threads.shutdown(wait=True)
        if pool is not None:
            pool.close()

    @property
    def is_inherited(self) -> bool:
        """Whether this object came along with a fork: its connections are the parent's."""
        return self._pid != os.getpid()

    def _opened(self) -> Pool:
        self._refuse_if_closed()
        if (pool := self._pool) is not None:
            return pool
        with self._lock:
            self._refuse_if_closed()
            if self._pool is None:
                with self.connect() as connection, translated(self.conninfo):
                    self._check(connection)
                self._pool = open_pool(self.conninfo, self._config)
            return self._pool

    def _refuse_if_closed(self) -> None:
        if self.is_inherited:
            raise StoreError("the store was opened before a fork; open one in each process")
        if self._closed:
            raise StoreError("the store is closed; open a new one")


@dataclass(frozen=True, slots=True)
class Transaction:
    """An effect (see memkit.effects): what `Database.run` does; the answer is its result."""

    database: Database
    work: Work[Any]
    writes: bool = True

    def run(self) -> Any:
        """Run it here."""
        return self.database.run(self.work, writes=self.writes)

    async def arun(self) -> Any:
        """Run it on a thread of the database."""
        return await self.database.arun(self.work, writes=self.writes)
