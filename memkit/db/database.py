"""Transactions on one pool, for sync and async callers alike."""

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from psycopg import errors as pg

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
from memkit.errors import StoreError

T = TypeVar("T")
Work = Callable[[Connection], T]

# Transactions of other programs may cross ours; Postgres ends one of the two, which runs again.
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

    def run(self, work: Work[T]) -> T:
        """Run `work` in one transaction; it may run again if Postgres ended it for a deadlock.

        Raises:
            StoreError: See `memkit.db.pool.translated`; nothing was written, unless the
                connection broke during the commit: then all of it may have been.
        """
        pool = self._opened()
        with translated(self.conninfo):
            for attempt in range(1, _ATTEMPTS + 1):
                try:
                    with pool.connection() as connection, connection.transaction():
                        return work(connection)
                except (pg.DeadlockDetected, pg.SerializationFailure):
                    if attempt == _ATTEMPTS:
                        raise
        raise AssertionError  # pragma: no cover - the loop returns or raises

    async def arun(self, work: Work[T]) -> T:
        """Run `work` as `run` does, on a thread."""
        return await self.in_thread(self.run, work)

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
    """An effect (see memkit.effects): run `work` in one transaction; the answer is its result."""

    database: Database
    work: Work[Any]

    def run(self) -> Any:
        """Run it here."""
        return self.database.run(self.work)

    async def arun(self) -> Any:
        """Run it on a thread of the database."""
        return await self.database.arun(self.work)
