"""Threads move from any saver to another, and nothing of them changes."""

import asyncio
import contextlib
import enum
import itertools
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command
from typing_extensions import TypedDict

from memkit import checkpoints
from memkit.errors import ConfigError, CopyConflict, CopyFailed
from tests.conftest import Server
from tests.savers import ASYNC, SYNC, async_saver, rows, sync_saver
from tests.threads import config, states, tree


@pytest.fixture(params=SYNC)
def source(request: pytest.FixtureRequest, tmp_path: Path, server: Server) -> Iterator[Any]:
    dsn = server.create()
    with sync_saver(request.param, tmp_path / "source.db", dsn) as opened:
        yield opened
    server.drop(dsn)


@pytest.fixture
def target(empty_dsn: str) -> Iterator[Any]:
    with sync_saver("postgres", Path(), empty_dsn) as opened:
        yield opened


def live(graph: Any, thread: str = "t") -> None:
    """Turns under each durability, a fork, a replay and, where the graph asks, a question."""
    place = config(thread)
    for durability in ("sync", "async", "exit"):
        for _ in range(2):
            given: Any = {"said": ["in"]}
            if graph.get_state(place).next:
                given = Command(resume="yes")
            graph.invoke(given, place, durability=durability)
    history = list(graph.get_state_history(place))
    forked = graph.update_state(
        history[len(history) // 2].config, {"said": ["forked"]}, as_node="close"
    )
    graph.invoke({"said": ["on"]}, forked)


def keys(saver: Any, *tables: str) -> dict[str, Any]:
    return {name: found for name, found in rows(saver).items() if name in tables}


SHAPES = [
    {"delta": False},
    {"frequency": 3},
    {"frequency": 100, "subgraph": "call", "asks": True},
    {"frequency": 3, "subgraph": "kept", "asks": True, "overwrites": True},
]


@pytest.mark.parametrize("shape", SHAPES)
def test_everything_comes_along(source: Any, target: Any, shape: Any) -> None:
    graph = tree(**shape).compile(checkpointer=source)
    live(graph)
    live(graph, "other")
    before = states(graph, source)
    stored = rows(source)

    expected = checkpoints.copy(source, target, dry_run=True)
    assert rows(target)["checkpoints"] == []
    report = checkpoints.copy(source, target)

    assert rows(source) == stored
    assert keys(target, "checkpoints", "writes") == keys(source, "checkpoints", "writes")
    moved = tree(**shape).compile(checkpointer=target)
    assert states(moved, target) == before
    assert report.checkpoints == report.compared == len(stored["checkpoints"])
    assert report.writes == len(stored["writes"])
    assert (report.threads, report.copied, report.same, report.refused) == (2, 2, 0, ())
    assert (expected.checkpoints, expected.writes, expected.copied) == (
        report.checkpoints,
        report.writes,
        2,
    )
    again = checkpoints.copy(source, target)
    assert (again.copied, again.checkpoints, again.writes) == (0, 0, 0)
    assert again.same == again.compared == report.checkpoints


def outcome(graph: Any) -> Any:
    """Answer what a thread asks, have one more turn, and return what it ends with."""
    while graph.get_state(config()).next:
        waiting = graph.get_state(config()).interrupts
        graph.invoke(Command(resume="yes") if waiting else None, config())
    graph.invoke({"said": ["after"]}, config())
    state = graph.get_state(config())
    return state.values, state.next, [question.value for question in state.interrupts]


@pytest.mark.parametrize("subgraph", [None, "call", "kept"])
def test_an_interrupted_thread_goes_on_where_it_was_copied(
    source: Any, target: Any, subgraph: str | None
) -> None:
    shape: Any = {"asks": True, "subgraph": subgraph, "frequency": 100}
    graph = tree(**shape).compile(checkpointer=source)
    for _ in range(2):
        graph.invoke({"said": ["in"]}, config())
    assert graph.get_state(config()).interrupts
    checkpoints.copy(source, target)
    moved = tree(**shape).compile(checkpointer=target)
    assert outcome(moved) == outcome(graph)


def test_what_has_come_since_is_copied_alone(source: Any, target: Any) -> None:
    graph = tree(asks=True, subgraph="call").compile(checkpointer=source)
    for _ in range(2):
        graph.invoke({"said": ["in"]}, config())
    first = checkpoints.copy(source, target)
    # The answer is a write of a checkpoint that is there already.
    graph.invoke(Command(resume="yes"), config())
    graph.invoke({"said": ["in"]}, config())
    second = checkpoints.copy(source, target)
    assert (second.copied, second.same) == (1, first.checkpoints)
    stored = rows(source)
    assert first.checkpoints + second.checkpoints == len(stored["checkpoints"])
    assert first.writes + second.writes == len(stored["writes"])
    moved = tree(asks=True, subgraph="call").compile(checkpointer=target)
    assert states(moved, target) == states(graph, source)
    assert keys(target, "checkpoints", "writes") == keys(source, "checkpoints", "writes")


def test_a_thread_that_went_on_in_the_target_stays_so(source: Any, target: Any) -> None:
    graph = tree().compile(checkpointer=source)
    graph.invoke({"said": ["in"]}, config())
    first = checkpoints.copy(source, target)
    moved = tree().compile(checkpointer=target)
    moved.invoke({"said": ["on"]}, config())
    stored = rows(target)
    again = checkpoints.copy(source, target)
    assert (again.checkpoints, again.writes, again.same) == (0, 0, first.checkpoints)
    assert again.only_in_target == len(stored["checkpoints"]) - first.checkpoints
    assert rows(target) == stored

    graph.invoke({"said": ["on here too"]}, config())
    with pytest.raises(CopyConflict, match="went on in both savers"):
        checkpoints.copy(source, target)
    assert rows(target) == stored


def test_another_thread_under_the_same_id_is_left_alone(source: Any, target: Any) -> None:
    graph = tree(delta=False).compile(checkpointer=source)
    for thread in ("a", "t", "z"):
        graph.invoke({"said": ["in"]}, config(thread))
    tree(delta=False).compile(checkpointer=target).invoke({"said": ["other"]}, config("t"))
    stored = rows(target)
    with pytest.raises(CopyConflict, match="1 of 3 threads were refused, the others copied") as it:
        checkpoints.copy(source, target)
    report: Any = it.value.report
    assert [thread.thread_id for thread in report.refused] == ["t"]
    assert (report.copied, report.threads) == (2, 3)
    assert "refused: t: the thread went on in both" in str(report)
    now = rows(target)
    for name, found in stored.items():
        assert [row for row in now[name] if row[0] == "t"] == found


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (
            "UPDATE checkpoint_blobs SET type = 'bytes', blob = 'other' WHERE channel = 'log'",
            "the value of 'log'",
        ),
        ("UPDATE checkpoints SET metadata = metadata || '{\"step\": 77}'", "the metadata"),
        ("UPDATE checkpoints SET parent_checkpoint_id = 'gone'", "the parent"),
        (
            "UPDATE checkpoint_writes SET type = 'bytes', blob = 'other' WHERE channel = 'said'",
            "what the DeltaChannel|the write to 'said'",
        ),
    ],
)
def test_the_same_id_with_other_contents_is_a_conflict(target: Any, change: str, what: str) -> None:
    source = InMemorySaver()
    graph = tree(frequency=100).compile(checkpointer=source)
    graph.invoke({"said": ["in"]}, config())
    checkpoints.copy(source, target)
    with target._cursor() as cursor:
        cursor.execute(change)
    graph.invoke({"said": ["in"]}, config())
    before = contents(target)
    with pytest.raises(CopyConflict, match=what):
        checkpoints.copy(source, target)
    assert contents(target) == before


def contents(saver: Any) -> Any:
    """All rows of a PostgresSaver."""
    tables = ("checkpoints", "checkpoint_blobs", "checkpoint_writes")
    with saver._cursor() as cursor:
        return [sorted(map(str, cursor.execute(f"SELECT * FROM {t}").fetchall())) for t in tables]


def test_what_does_not_read_back_is_removed_again(
    target: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = InMemorySaver()
    tree().compile(checkpointer=source).invoke({"said": ["in"]}, config())
    read = type(target)._load_blobs

    def losing(self: Any, blobs: Any) -> Any:
        found = read(self, blobs)
        found.pop("note", None)
        return found

    monkeypatch.setattr(type(target), "_load_blobs", losing)
    with pytest.raises(CopyFailed, match=r"the value of 'note' .* does not read back") as it:
        checkpoints.copy(source, target)
    assert not isinstance(it.value, CopyConflict)
    left = len(rows(target)["checkpoints"])
    report: Any = it.value.report
    assert left == report.checkpoints == report.compared < len(rows(source)["checkpoints"])
    monkeypatch.undo()
    checkpoints.copy(source, target)
    assert keys(target, "checkpoints", "writes") == keys(source, "checkpoints", "writes")


def test_any_saver_is_a_target(tmp_path: Path, empty_dsn: str, server: Server) -> None:
    shape: Any = {"frequency": 3, "subgraph": "kept", "asks": True}
    first = InMemorySaver()
    graph = tree(**shape).compile(checkpointer=first)
    live(graph)
    before = states(graph, first)
    dsn = server.create()
    with (
        sync_saver("sqlite", tmp_path / "1.db", "") as sqlite,
        sync_saver("postgres", Path(), dsn) as postgres,
        sync_saver("postgres", Path(), empty_dsn) as other,
        sync_saver("sqlite", tmp_path / "2.db", "") as last,
    ):
        way = [first, sqlite, InMemorySaver(), postgres, other, last]
        for source, target in itertools.pairwise(way):
            checkpoints.copy(source, target)
            assert states(tree(**shape).compile(checkpointer=target), target) == before
        assert checkpoints.copy(first, last).copied == 0
    server.drop(dsn)


@pytest.mark.parametrize("kind", ASYNC)
def test_acopy(kind: str, tmp_path: Path, empty_dsn: str, server: Server) -> None:
    shape: Any = {"frequency": 3, "subgraph": "call", "asks": True}
    dsn = server.create()

    async def story() -> None:
        async with (
            async_saver(kind, tmp_path / "a.db", dsn) as source,
            async_saver("async postgres", Path(), empty_dsn) as target,
        ):
            graph = tree(**shape).compile(checkpointer=source)
            for given in ({"said": ["in"]}, {"said": ["in"]}):
                if kind.startswith("async"):
                    await graph.ainvoke(given, config())
                else:
                    graph.invoke(given, config())
            expected = await checkpoints.acopy(source, target, dry_run=True)
            report = await checkpoints.acopy(source, target)
            assert report.checkpoints == expected.checkpoints == report.compared > 0
            assert (await checkpoints.acopy(source, target)).copied == 0
            if kind.startswith("async"):
                with pytest.raises(ConfigError, match=r"await acopy\(\.\.\.\)"):
                    checkpoints.copy(source, target)
            moved = tree(**shape).compile(checkpointer=target)
            asking = await moved.aget_state(config())
            assert [question.value for question in asking.interrupts] == ["what of 2?"]
            await moved.ainvoke(Command(resume="yes"), config())
            answered = (await moved.aget_state(config())).values
            if kind.startswith("async"):
                await graph.ainvoke(Command(resume="yes"), config())
                assert (await graph.aget_state(config())).values == answered
            else:
                graph.invoke(Command(resume="yes"), config())
                assert graph.get_state(config()).values == answered

    asyncio.run(story())
    server.drop(dsn)


KILLED = """
import os, signal, sys
from pathlib import Path
from memkit import checkpoints
from memkit.checkpoints import backend, postgres, transfer
from tests.savers import sync_saver
left = [int(sys.argv[3])]
make = backend.Statement
def statement(*args, **kwargs):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    return make(*args, **kwargs)
postgres.Statement = statement
transfer._BATCH = 7
with sync_saver("sqlite", Path(sys.argv[1]), "") as source:
    with sync_saver("postgres", Path(), sys.argv[2]) as target:
        checkpoints.copy(source, target)
"""


def test_killed_anywhere_it_goes_on(tmp_path: Path, empty_dsn: str) -> None:
    shape: Any = {"frequency": 3, "subgraph": "call", "asks": True}
    place = tmp_path / "source.db"
    with sync_saver("sqlite", place, "") as source:
        graph = tree(**shape).compile(checkpointer=source)
        live(graph)
        live(graph, "other")
        before = states(graph, source)
        total = len(rows(source)["checkpoints"])
    copied = 0
    for event in (4, 14, 17, 18, 21):
        done = subprocess.run(
            [sys.executable, "-c", KILLED, str(place), empty_dsn, str(event)],
            check=False,
            cwd=Path(__file__).parents[2],
            env=dict(os.environ),
        )
        assert done.returncode == -signal.SIGKILL
        with sync_saver("postgres", Path(), empty_dsn) as target:
            now = len(rows(target)["checkpoints"])
            assert now >= copied
            copied = now
    assert 0 < copied < total
    with (
        sync_saver("sqlite", place, "") as source,
        PostgresSaver.from_conn_string(empty_dsn) as target,
    ):
        report = checkpoints.copy(source, target)
        assert report.checkpoints == total - copied
        assert report.same == copied
        assert keys(target, "checkpoints", "writes") == keys(source, "checkpoints", "writes")
        assert states(tree(**shape).compile(checkpointer=target), target) == before


class Mood(enum.StrEnum):
    """A text for JSON, and more than that for Python."""

    GOOD = "good"


class Odd(TypedDict, total=False):
    """Values that JSON in Postgres does not keep as they are."""

    nul: str
    half: str
    whole_float: float
    infinite: float
    mood: Any
    long: int
    data: bytes
    pair: Any
    none: Any


ODD: Any = {
    "nul": "a\0b",
    "half": "caf\u00e9 \U0001f600",
    "whole_float": 1e22,
    "infinite": float("inf"),
    "mood": Mood.GOOD,
    "long": 2**62,
    "data": b"\0\1",
    "pair": (1, frozenset({2})),
    "none": None,
}


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_values_that_postgres_would_spoil_or_refuse(kind: str, tmp_path: Path, target: Any) -> None:
    builder = StateGraph(Odd)
    builder.add_node("odd", lambda _: ODD)
    builder.add_edge(START, "odd")
    with sync_saver(kind, tmp_path / "odd.db", "") as source:
        builder.compile(checkpointer=source).invoke({"long": 1}, config(), durability="sync")
        checkpoints.copy(source, target)
        moved = builder.compile(checkpointer=target).get_state(config()).values
        kept = builder.compile(checkpointer=source).get_state(config()).values
        assert moved == kept
        assert {**moved, "pair": ODD["pair"]} == ODD  # LangGraph makes lists of tuples
        assert {name: type(value) for name, value in moved.items()} == {
            name: type(value) for name, value in kept.items()
        }


def test_a_version_with_two_values_keeps_both(tmp_path: Path, target: Any) -> None:
    """As SQLite keeps what LangGraph stores a moment late, with durability "async"."""
    with sync_saver("sqlite", tmp_path / "two.db", "") as source:
        graph = tree(delta=False).compile(checkpointer=source)
        graph.invoke({"said": ["in"]}, config(), durability="sync")
        history = list(graph.get_state_history(config()))
        for at, place in enumerate(history[:2]):
            found: Any = source.get_tuple(place.config)
            found.checkpoint["channel_versions"]["log"] = "00000000000000000000000000000002.5"
            found.checkpoint["channel_values"]["log"] = [f"value {at}"]
            source.put(found.parent_config, found.checkpoint, found.metadata, {})
        before = states(graph, source)
        assert len({str(state[0]["log"]) for state in before.values() if "log" in state[0]}) > 1
        checkpoints.copy(source, target)
        moved = tree(delta=False).compile(checkpointer=target)
        assert states(moved, target) == before
        assert checkpoints.copy(source, target).copied == 0
        # What comes after, names versions of its own.
        assert outcome(moved) == outcome(graph)
        graph.invoke({"said": ["in"]}, config("new"))
        assert checkpoints.copy(source, target, thread_ids=["new"]).copied == 1


class Mirror:
    """A cipher for tests: another text each time, as with a real one."""

    def __init__(self) -> None:
        self.calls = itertools.count()

    def encrypt(self, plaintext: bytes) -> tuple[str, bytes]:
        return "mirror", b"%08d" % next(self.calls) + plaintext[::-1]

    def decrypt(self, ciphername: str, ciphertext: bytes) -> bytes:
        assert ciphername == "mirror"
        return ciphertext[8:][::-1]


def test_from_plain_to_encrypted_and_back(tmp_path: Path, empty_dsn: str) -> None:
    key = EncryptedSerializer(Mirror())
    plain = InMemorySaver()
    graph = tree(frequency=2).compile(checkpointer=plain)
    live(graph)
    before = states(graph, plain)
    with SqliteSaver.from_conn_string(str(tmp_path / "secret.db")) as secret:
        secret.serde = key
        checkpoints.copy(plain, secret)
        stored = secret.conn.execute("SELECT checkpoint FROM checkpoints").fetchall()
        assert "forked"[::-1] in str(stored)
        assert "forked" not in str(stored)
        with PostgresSaver.from_conn_string(empty_dsn) as target:
            target.setup()
            target.serde = key
            checkpoints.copy(secret, target)
            assert "forked" not in str(contents(target))
            assert checkpoints.copy(secret, target).copied == 0
            back = InMemorySaver()
            checkpoints.copy(target, back)
    assert states(tree(frequency=2).compile(checkpointer=back), back) == before


def test_pickles_need_a_target_that_reads_them(target: Any) -> None:
    source = InMemorySaver(serde=JsonPlusSerializer(pickle_fallback=True))
    builder = StateGraph(Odd)
    builder.add_node("odd", lambda _: {"pair": itemgetter(1)})
    builder.add_edge(START, "odd")
    builder.compile(checkpointer=source).invoke({"long": 1}, config())
    with pytest.raises(CopyFailed, match="pickle_fallback=True"):
        checkpoints.copy(source, target)
    target.serde = JsonPlusSerializer(pickle_fallback=True)
    checkpoints.copy(source, target)
    moved = builder.compile(checkpointer=target).get_state(config()).values
    assert moved["pair"]((5, 6)) == 6


def test_metadata_that_json_does_not_hold_is_told(target: Any) -> None:
    source = InMemorySaver()
    graph: Any = tree().compile(checkpointer=source)
    graph.invoke({"said": ["in"]}, {**config("bad"), "metadata": {"score": float("nan")}})
    graph.invoke({"said": ["in"]}, config("good"))
    with pytest.raises(CopyFailed, match="cannot be kept as JSON: the number nan"):
        checkpoints.copy(source, target)
    assert {row[0] for row in rows(target)["checkpoints"]} == {"good"}


def test_bad_arguments_are_told(empty_dsn: str) -> None:
    saver = InMemorySaver()
    with pytest.raises(ConfigError, match="checkpoints of a dict are not known"):
        checkpoints.copy({}, saver)
    with pytest.raises(ConfigError, match="checkpoints of a NoneType are not known"):
        checkpoints.copy(saver, None)
    with pytest.raises(ConfigError, match="the same saver"):
        checkpoints.copy(saver, saver)
    with pytest.raises(ConfigError, match="the string 't'"):
        checkpoints.copy(saver, InMemorySaver(), thread_ids="t")
    with (
        PostgresSaver.from_conn_string(empty_dsn) as bare,
        pytest.raises(ConfigError, match=r"the target, a PostgresSaver: the .* no tables"),
    ):
        checkpoints.copy(saver, bare)


def test_a_thread_that_is_not_there_is_told(target: Any) -> None:
    source = InMemorySaver()
    graph: Any = tree().compile(checkpointer=source)
    graph.invoke({"said": ["in"]}, config())
    with pytest.raises(CopyFailed, match="gone: the source has nothing of it") as it:
        checkpoints.copy(source, target, thread_ids=["t", "gone"])
    report: Any = it.value.report
    assert (report.threads, report.copied) == (2, 1)


def test_a_database_that_fails_is_told_with_what_was_done(
    source: Any, empty_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = tree().compile(checkpointer=source)
    for thread in "ab":
        graph.invoke({"said": ["in"]}, config(thread))
    with PostgresSaver.from_conn_string(empty_dsn) as target:
        target.setup()
        read = target.get_tuple

        def broken(place: Any) -> Any:
            if place["configurable"]["thread_id"] == "b":
                target.conn.close()
            return read(place)

        monkeypatch.setattr(target, "get_tuple", broken)
        with pytest.raises(CopyFailed, match="goes on from there") as it:
            checkpoints.copy(source, target)
    report: Any = it.value.report
    assert (report.threads, report.copied) == (2, 1)
    with PostgresSaver.from_conn_string(empty_dsn) as target:
        checkpoints.copy(source, target)
        assert keys(target, "checkpoints", "writes") == keys(source, "checkpoints", "writes")


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
def test_beside_a_live_writer(source: Any, target: Any, durability: Any) -> None:
    graph = tree(frequency=3, subgraph="call").compile(checkpointer=source)
    graph.invoke({"said": ["in"]}, config())
    ended = threading.Event()

    def write() -> None:
        for _ in range(12):
            graph.invoke({"said": ["in"]}, config(), durability=durability)
        ended.set()

    writer = threading.Thread(target=write)
    writer.start()
    times = 0
    while not ended.is_set():
        with contextlib.suppress(CopyFailed):  # it may change faster than it is copied
            checkpoints.copy(source, target)
        times += 1
    writer.join()
    report = checkpoints.copy(source, target)
    assert times > 0
    assert report.compared == len(rows(source)["checkpoints"])
    assert keys(target, "checkpoints", "writes") == keys(source, "checkpoints", "writes")
    moved = tree(frequency=3, subgraph="call").compile(checkpointer=target)
    assert states(moved, target) == states(graph, source)
