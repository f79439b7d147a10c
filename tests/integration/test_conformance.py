"""LangGraph's conformance suite for checkpointers, on databases that memkit prunes all the while.

`langgraph-checkpoint-conformance` drives a saver through its async methods. After each of its tests
memkit takes from the threads of that test what it can, so that the next one runs on a database that
was pruned, and where the suite calls `aprune`, memkit's runs.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from memkit import checkpoints

capabilities = pytest.importorskip("langgraph.checkpoint.conformance.capabilities")


class Pruning:
    """A saver whose `aprune` is memkit's, and which knows the threads that were written."""

    written: set[str]

    async def aput(self, config: Any, *args: Any) -> Any:
        self.written = getattr(self, "written", set()) | {config["configurable"]["thread_id"]}
        return await super().aput(config, *args)  # type: ignore[misc]

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        if strategy == "delete":
            for thread_id in thread_ids:
                await self.adelete_thread(thread_id)  # type: ignore[attr-defined]
        elif thread_ids:
            await checkpoints.aprune(self, keep_last=1, thread_ids=thread_ids)


class PruningMemory(Pruning, InMemorySaver): ...


class PruningSqlite(Pruning, AsyncSqliteSaver): ...


class PruningPostgres(Pruning, AsyncPostgresSaver): ...


def suite(saver: Any) -> list[tuple[str, Callable[[Any], Awaitable[None]]]]:
    """Return the tests of what a saver can do."""
    detected = capabilities.DetectedCapabilities.from_instance(saver).detected
    found = []
    for capability in sorted(detected):
        name = capability.value
        spec = import_module(f"langgraph.checkpoint.conformance.spec.test_{name}")
        found += [(name, test) for test in getattr(spec, f"ALL_{name.upper()}_TESTS")]
    return found


async def conforms(saver: Any) -> tuple[int, int]:
    """Run the suite; return how many tests there were and how many checkpoints went meanwhile."""
    tests = suite(saver)
    assert {name for name, _ in tests} >= {"put", "put_writes", "get_tuple", "list", "prune"}
    failed, gone = [], 0
    for name, test in tests:
        saver.written = set()
        try:
            await test(saver)
        except Exception as error:  # noqa: BLE001 - all that fail are told
            failed.append(f"{name}: {error!r}")
        report = await checkpoints.aprune(saver, keep_last=1, thread_ids=saver.written)
        gone += report.checkpoints.rows
    assert failed == []
    return len(tests), gone


@pytest.mark.parametrize("kind", ["memory", "sqlite", "postgres"])
def test_a_pruned_database_conforms(kind: str, tmp_path: Path, empty_dsn: str) -> None:
    async def story() -> tuple[int, int]:
        if kind == "memory":
            return await conforms(PruningMemory())
        if kind == "sqlite":
            async with PruningSqlite.from_conn_string(str(tmp_path / "c.db")) as sqlite:
                return await conforms(sqlite)
        async with PruningPostgres.from_conn_string(empty_dsn) as postgres:
            await postgres.setup()
            return await conforms(postgres)

    tests, gone = asyncio.run(story())
    assert tests > 60
    assert gone > 40
