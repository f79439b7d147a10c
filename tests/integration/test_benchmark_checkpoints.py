"""`python -m benchmarks checkpoints`: a tiny run against real servers, and its judges."""

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from langgraph.checkpoint.memory import InMemorySaver

import benchmarks.checkpoints as bench
from benchmarks.__main__ import main
from benchmarks.checkpoints import (
    DATABASES,
    MEMKIT,
    PLAIN,
    SYSTEMS,
    Grown,
    Place,
    Watch,
    ask,
    built,
    config_of,
    copy_thread,
    exponent,
    script,
)
from benchmarks.prune_load import Load, compared
from memkit.errors import ConfigError
from tests.conftest import Server

LOAD = Load(threads=8, turns=3, writers=1, every_s=0.03, beside_s=0.2, alone_s=0.2)
TINY = bench.Effort(turns=8, lap=2, stored=3, conversations=2, load=LOAD)


@pytest.fixture
def place(server: Server, tmp_path: Path) -> Iterator[Place]:
    yield Place(tmp_path, server.dsn)
    with psycopg.connect(server.dsn) as connection:
        made = connection.execute(
            "SELECT datname FROM pg_database WHERE datname LIKE 'checkpoints_%'"
        ).fetchall()
    for (name,) in made:
        server.drop(f"dbname={name}")


@pytest.mark.slow
def test_a_tiny_run(
    place: Place,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    @contextmanager
    def running(_: Path) -> Iterator[str]:
        yield place.dsn

    monkeypatch.setattr(bench, "postgres", running)
    monkeypatch.setattr(bench, "QUICK", TINY)
    paths = ["--json", str(tmp_path / "a.json"), "--plot", str(tmp_path / "a.png")]
    assert main(["checkpoints", "--quick", *paths]) == 0

    assert "not figures to quote" in capsys.readouterr().err
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    report = json.loads((tmp_path / "a.json").read_text())
    systems = report["systems"]
    assert list(systems) == list(SYSTEMS)
    for kind in ("sqlite", "postgres"):
        held = {name: figures[f"{kind}_bytes"] for name, figures in systems.items()}
        assert held[MEMKIT] < min(held["memkit delta"], held[PLAIN])
        assert held["plain exit"] < held[PLAIN] / 2
        assert held["plain async"] == pytest.approx(held[PLAIN], rel=0.05)
        fewer = report["settings"]["fewer_bytes_than_plain"][kind]
        assert fewer[MEMKIT] == round(held[PLAIN] / held[MEMKIT], 1) > 2
        for figures in systems.values():
            assert figures[f"{kind}_disk_bytes"] > figures[f"{kind}_bytes"]
            assert figures[f"{kind}_turn_ms_p95"] >= figures[f"{kind}_turn_ms_p50"] > 0
        assert systems[MEMKIT][f"{kind}_exponent"] < systems[PLAIN][f"{kind}_exponent"]
        sizes = report["settings"]["bytes_over_turns"][kind][MEMKIT]
        assert list(sizes) == ["2", "4", "6", "8"]
    for name in ("memkit delta", PLAIN):
        for saver in ("memory", "sqlite", "postgres", "pool", "pools"):
            for what in ("get_tuple", "get_state", "write"):
                assert systems[name][f"{saver}_{what}_ms_p50"] > 0
    memkit = systems[MEMKIT]
    assert memkit["prune_threads"] == LOAD.threads
    # Of 9 checkpoints 4 go, with their writes and values.
    assert memkit["prune_rows"] > 4 * 2 * LOAD.threads
    assert min(memkit["prune_writers_turns"], memkit["prune_writers_alone_turns"]) > 0
    assert memkit["prune_p95_ratio_low"] <= memkit["prune_p95_ratio_high"]


def test_what_checkpoints_does_not_take_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--data", "file.json"], ["--max-tokens", "5"], ["--model", "gpt-4o"]):
        assert main(["checkpoints", *arguments]) == 1
        assert "leave out" in capsys.readouterr().err


def test_a_missing_saver_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "langgraph.checkpoint.sqlite", None)
    with pytest.raises(ConfigError, match=r"checkpoint.sqlite .*pip install 'memkit\[bench\]'"):
        bench.need_savers()


# -- growth ------------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [1, 2])
def test_the_exponent_of_what_grows_by_a_power(power: int) -> None:
    turns = list(range(10, 501, 10))
    grown = Grown(turns, [7 * turn**power for turn in turns])
    # What is before the first tenth does not count.
    grown.bytes[0] = 10**9
    assert exponent(grown) == pytest.approx(power)


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_way_keeps_the_conversation(name: str, place: Place) -> None:
    turns = script(6)
    with ExitStack() as resources:
        database = DATABASES["sqlite"](place, resources)
        graph = built(SYSTEMS[name], turns, database.saver)
        for question, _ in turns:
            ask(graph, "t", question, SYSTEMS[name].durability)
        messages = graph.get_state(config_of("t")).values["messages"]
        assert [m.content for m in messages] == [m.content for turn in turns for m in turn]
        kept = len(list(database.saver.list(config_of("t"))))
        keep_last = SYSTEMS[name].keep_last
        # The turn that pruned, the sixth, has stored some of its own meanwhile and behind it.
        assert kept >= len(turns)
        assert keep_last is None or kept <= keep_last + 4


def test_a_trimmed_conversation_stays_small() -> None:
    turns = script(60)
    saver = InMemorySaver()
    graph = built(SYSTEMS["memkit trimming"], turns, saver)
    for question, _ in turns:
        ask(graph, "t", question, "exit")
    state = graph.get_state(config_of("t")).values
    assert 2 < len(state["messages"]) < 60
    assert state["summary"]["text"]


@pytest.mark.parametrize("kind", list(DATABASES))
def test_what_the_tables_hold_is_counted(kind: str, place: Place) -> None:
    with ExitStack() as resources:
        database = DATABASES[kind](place, resources)
        assert database.held() == 0
        columns = database.columns("checkpoints")
        thread, *_ = columns
        assert thread == "thread_id"
        value = "'{}'" if kind == "postgres" else "'ab'"
        for n in range(3):
            database.execute(
                "INSERT INTO checkpoints (thread_id, checkpoint_ns, checkpoint_id, checkpoint) "
                f"VALUES ('four', '', 'c{n}', {value})"
            )
        # Postgres: a byte of length before each text; {} and the default metadata as jsonb.
        of_one = 4 + 2 + 2 if kind == "sqlite" else 5 + 1 + 3 + 2 * 5
        assert database.held() == 3 * of_one
        assert database.disk() > 0


# -- savers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["memory", *DATABASES])
def test_copies_of_a_thread_can_be_resumed(kind: str, place: Place) -> None:
    turns = script(4)
    with ExitStack() as resources:
        database: Any = None
        if kind != "memory":
            database = DATABASES[kind](place, resources)
        saver = database.saver if database else InMemorySaver()
        graph = built(SYSTEMS["memkit delta"], turns, saver)
        for question, _ in turns[:3]:
            ask(graph, "source", question)
        copy_thread(database or saver, "copy", 3)
        before = graph.get_state(config_of("source")).values
        for n in range(3):
            assert graph.get_state(config_of(f"copy-{n}")).values == before
        ask(graph, "copy-2", turns[3][0])
        assert len(graph.get_state(config_of("copy-2")).values["messages"]) == 8
        assert len(graph.get_state(config_of("copy-1")).values["messages"]) == 6


def test_the_time_of_writing_is_that_of_the_thread() -> None:
    class Slow:
        def put(self, config: Any) -> str:
            time.sleep(0.02)
            return "put"

        put_writes = put

        async def aput(self, config: Any) -> str:
            await asyncio.sleep(0.02)
            return "put"

        aput_writes = aput

    saver = Slow()
    watch = Watch(saver)
    assert saver.put(config_of("a")) == saver.put_writes(config_of("a")) == "put"
    saver.put(config_of("b"))
    assert 0.04 <= watch.taken("a") < 0.2
    assert 0.02 <= watch.taken("b") < 0.2
    saver = Slow()
    watch = Watch(saver, asynchronous=True)
    assert asyncio.run(saver.aput(config_of("a"))) == "put"
    assert 0.02 <= watch.taken("a") < 0.2


# -- pruning beside writers --------------------------------------------------------------------


def test_turns_count_where_they_fell_as_a_whole() -> None:
    beside, alone = [(0.0, 10.0), (20.0, 30.0)], [(10.0, 20.0), (30.0, 40.0)]
    turns = [(n + 0.1, n + 0.3) for n in (*range(10), *range(20, 30))]
    turns += [(n + 0.1, n + 0.2) for n in (*range(10, 20), *range(30, 40))]
    turns += [(9.5, 15.0), (39.5, 41.0), (29.9, 30.2)]  # across an edge
    figures = compared(turns, beside, alone)
    assert (figures["prune_writers_turns"], figures["prune_writers_alone_turns"]) == (20, 20)
    assert figures["prune_writers_ms_p95"] == pytest.approx(200)
    assert figures["prune_writers_alone_ms_p50"] == pytest.approx(100)
    for metric in ("prune_p50_ratio", "prune_p95_ratio", "prune_p95_ratio_low"):
        assert figures[metric] == pytest.approx(2)
