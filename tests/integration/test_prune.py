"""Pruning the five savers."""

import asyncio
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.postgres.shallow import ShallowPostgresSaver
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.types import Command
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool

from memkit import checkpoints
from memkit.checkpoints import policy
from memkit.checkpoints.backend import Pause
from memkit.checkpoints.prune import _Job
from memkit.errors import ConfigError, PruneUnsafe
from tests.savers import ASYNC, SYNC, async_saver, orphans, rows, sync_saver
from tests.threads import config, states, tree

TURNS = 6


@pytest.fixture(params=SYNC)
def saver(request: pytest.FixtureRequest, tmp_path: Path, empty_dsn: str) -> Iterator[Any]:
    with sync_saver(request.param, tmp_path / "checkpoints.db", empty_dsn) as opened:
        yield opened


def talk(graph: Any, thread: str = "t", turns: int = TURNS, durability: Any = "sync") -> None:
    for _ in range(turns):
        graph.invoke({"said": ["in"]}, config(thread), durability=durability)


def ids(saver: Any, thread: str = "t", ns: str = "") -> list[str]:
    """The ids of a namespace's checkpoints, oldest first, but for what pruning adds."""
    return sorted(
        stored.config["configurable"]["checkpoint_id"]
        for stored in list(saver.list(config(thread, checkpoint_ns=ns)))
        if not stored.metadata.get("memkit_carrier")
    )


def said(turns: int) -> list[str]:
    """What the DeltaChannel of `tree` holds after so many turns."""
    found: list[str] = []
    for turn in range(1, turns + 1):
        found.append("in")
        found += [f"plan {len(found)}", f"left {turn}", f"right {turn}"]
    return found


@pytest.mark.parametrize("delta", [False, True])
def test_the_last_stay_as_they_were(saver: Any, delta: bool) -> None:
    graph = tree(subgraph="call", delta=delta).compile(checkpointer=saver)
    talk(graph)
    talk(graph, "other", 2)
    before, other = states(graph, saver), states(graph, saver, "other")
    places = ids(saver)

    expected = checkpoints.prune(saver, keep_last=3, thread_ids=["t"], dry_run=True)
    assert states(graph, saver) == before
    report = checkpoints.prune(saver, keep_last=3, thread_ids=["t"])

    assert dataclasses.replace(expected, dry_run=False) == report
    assert ids(saver) == places[-3:]
    after = states(graph, saver)
    assert after == {key: before[key] for key in after}
    assert states(graph, saver, "other") == other
    assert (report.threads, report.pruned) == (1, 1)
    assert report.checkpoints.rows == len(before) - len(after)
    assert report.kept["last"] >= 3
    assert report.bytes > 0
    assert orphans(saver) == []
    assert checkpoints.prune(saver, keep_last=3, thread_ids=["t"]).rows == 0
    talk(graph, turns=1)
    assert graph.get_state(config()).values["said"] == said(TURNS + 1)


def test_rows_and_bytes_are_those_that_went(saver: Any) -> None:
    graph = tree(subgraph="call", delta=False).compile(checkpointer=saver)
    talk(graph)
    before = rows(saver)
    report = checkpoints.prune(saver, keep_last=1, batch_rows=10)
    after = rows(saver)
    for name, went in (
        ("checkpoints", report.checkpoints),
        ("writes", report.writes),
        ("blobs", report.blobs),
    ):
        assert went.rows == len(before[name]) - len(after[name])
        assert (went.bytes > 0) == (went.rows > 0)
    assert report.added.rows == 0


def test_only_what_is_old_goes(saver: Any) -> None:
    graph = tree(delta=False).compile(checkpointer=saver)
    talk(graph, turns=2)
    middle = datetime.now(UTC)
    talk(graph, turns=2)
    places = ids(saver)
    month = timedelta(days=30)
    nothing = checkpoints.prune(saver, keep_last=2, older_than="30d")
    assert (nothing.rows, nothing.kept["young"]) == (0, len(places) - 2)
    report = checkpoints.prune(saver, keep_last=2, older_than=month, now=middle + month)
    young = len(places) // 2
    assert ids(saver) == places[-young:]
    assert report.kept == {"last": 2, "young": young - 2}


def test_only_what_has_the_metadata_goes(saver: Any) -> None:
    graph = tree(delta=False).compile(checkpointer=saver)
    talk(graph, turns=3)
    checkpoints.prune(saver, metadata={"source": "loop"})
    sources = [stored.metadata["source"] for stored in list(saver.list(config()))]
    assert sources == ["loop", "input", "input", "input"]


def test_a_run_can_be_pinned_by_its_metadata(saver: Any) -> None:
    graph: Any = tree().compile(checkpointer=saver)
    talk(graph, turns=1)
    graph.invoke({"said": ["in"]}, {**config(), "metadata": {"pinned": True}})
    pinned = [
        s.config["configurable"]["checkpoint_id"]
        for s in list(saver.list(config(), filter={"pinned": True}))
    ]
    talk(graph, turns=2)
    before = states(graph, saver)
    report = checkpoints.prune(saver, keep_last=1)
    after = states(graph, saver)
    assert set(ids(saver)) == {*pinned, max(i for _, i in before)}
    assert report.kept["pinned"] == len(pinned) > 3
    assert after == {key: before[key] for key in after}


def test_a_thread_shrinks_to_its_budget(saver: Any) -> None:
    graph = tree(delta=False).compile(checkpointer=saver)
    talk(graph, turns=8)
    whole = checkpoints.prune(saver, keep_last=1, dry_run=True)
    half = whole.bytes // 2
    total = checkpoints.prune(saver, max_bytes=10**9)
    assert total.rows == 0
    places = ids(saver)
    report = checkpoints.prune(saver, max_bytes=half)
    left = ids(saver)
    assert 1 < len(left) < len(places)
    assert left == places[-len(left) :]
    assert report.kept == {"last": 1, "budget": len(left) - 1}
    # It is no more than was needed: what is left fits, and one more would not.
    assert checkpoints.prune(saver, max_bytes=half).rows == 0
    again = checkpoints.prune(saver, max_bytes=half // 2)
    assert 0 < again.checkpoints.rows < len(left) - 1


@pytest.mark.parametrize("subgraph", [None, "call", "kept"])
def test_an_interrupted_thread_goes_on(saver: Any, subgraph: str | None) -> None:
    graph = tree(asks=True, subgraph=subgraph).compile(checkpointer=saver)
    talk(graph, turns=2)
    asked = graph.get_state(config(), subgraphs=True)
    assert asked.interrupts
    checkpoints.prune(saver, keep_last=1)
    state = graph.get_state(config(), subgraphs=True)
    assert (state.values, state.next, state.interrupts) == (
        asked.values,
        asked.next,
        asked.interrupts,
    )
    assert [t.state and t.state.values for t in state.tasks] == [
        t.state and t.state.values for t in asked.tasks
    ]
    graph.invoke(Command(resume="yes"), config())
    assert graph.get_state(config()).next == ()
    assert graph.get_state(config()).values["said"] == said(2)
    assert graph.get_state(config()).values["note"]["answer"] == "yes"


def test_a_question_on_an_abandoned_branch_can_still_be_answered(saver: Any) -> None:
    graph = tree(asks=True).compile(checkpointer=saver)
    talk(graph, turns=1)
    rest = graph.get_state(config()).config
    talk(graph, turns=1)
    asking = graph.get_state(config()).config
    # Another branch from the end of the first turn, at whose turn nothing is asked.
    fork = graph.update_state(rest, {"turn": 4}, as_node="close")
    graph.invoke({"said": ["in"]}, fork)
    talk(graph, turns=1)
    graph.invoke(Command(resume="no"), config())
    report = checkpoints.prune(saver, keep_last=1)
    assert report.kept["pending"] == 1
    assert graph.get_state(asking).interrupts
    graph.invoke(Command(resume="yes"), asking)
    assert graph.get_state(config()).values["note"]["answer"] == "yes"


def stored_at(saver: Any, place: Any) -> dict[str, Any]:
    found = saver.get_tuple(place)
    assert found is not None
    values: dict[str, Any] = found.checkpoint["channel_values"]
    return values


def test_with_its_graph_a_delta_thread_gets_snapshots(saver: Any) -> None:
    graph = tree(frequency=100).compile(checkpointer=saver)
    talk(graph)
    report = checkpoints.prune(saver, keep_last=2, graph=graph)
    assert len(list(saver.list(config()))) == 2
    oldest: Any = graph.get_state(config()).parent_config
    values = stored_at(saver, oldest)
    assert isinstance(values["said"], _DeltaSnapshot)
    assert values["said"].value == said(TURNS)
    assert report.added.rows == 2
    assert graph.get_state(oldest).parent_config is None
    talk(graph, turns=1)
    assert graph.get_state(config()).values["said"] == said(TURNS + 1)


def test_without_a_graph_its_writes_are_carried(saver: Any) -> None:
    graph = tree(frequency=100).compile(checkpointer=saver)
    talk(graph)
    report = checkpoints.prune(saver, keep_last=2)
    history = list(saver.list(config()))
    assert len(history) == 3
    carrier = history[-1]
    assert carrier.metadata["memkit_carrier"] is True  # what it stands for is gone
    assert history[1].parent_config == carrier.config
    assert report.added.rows == 1 + len(carrier.pending_writes or [])
    assert not any(graph.get_state(carrier.config).values.values())
    for turns in range(TURNS + 1, TURNS + 4):
        talk(graph, turns=1)
        assert graph.get_state(config()).values["said"] == said(turns)
        checkpoints.prune(saver, keep_last=2)
        assert graph.get_state(config()).values["said"] == said(turns)
        assert len(list(saver.list(config()))) == 3
    # With a snapshot on the way, what is before it is carried no more.
    rare = tree(frequency=5).compile(checkpointer=saver)
    talk(rare, turns=2)
    checkpoints.prune(saver, keep_last=1, batch_rows=3)
    carried = [w for w in list(saver.list(config()))[-1].pending_writes or [] if w[1] == "said"]
    assert len(carried) < 12
    assert rare.get_state(config()).values["said"] == said(TURNS + 5)


def test_a_thread_that_cannot_be_rebuilt_is_refused_and_others_go(saver: Any) -> None:
    graph = tree(frequency=100).compile(checkpointer=saver)
    for thread in ("a", "broken", "c"):
        talk(graph, thread)
    lost = ids(saver, "broken")[4]
    forget(saver, "broken", lost)
    before = states(graph, saver, "broken")
    with pytest.raises(
        PruneUnsafe, match=rf"'broken' cannot be rebuilt .* {lost} is gone"
    ) as caught:
        checkpoints.prune(saver, keep_last=2)
    assert states(graph, saver, "broken") == before
    report = caught.value.report
    assert isinstance(report, checkpoints.PruneReport)
    assert [refusal.thread_id for refusal in report.refused] == ["broken"]
    assert (report.threads, report.pruned) == (3, 2)
    assert len(ids(saver, "a")) == len(ids(saver, "c")) == 2


def forget(saver: Any, thread: str, checkpoint_id: str) -> None:
    """What a pruning that knows nothing of DeltaChannels does."""
    if isinstance(saver, InMemorySaver):
        del saver.storage[thread][""][checkpoint_id]
        return
    mark = "?" if isinstance(saver, SqliteSaver) else "%s"
    opened = saver.cursor() if isinstance(saver, SqliteSaver) else saver._cursor()
    with opened as cursor:
        cursor.execute(
            f"DELETE FROM checkpoints WHERE thread_id = {mark} AND checkpoint_id = {mark}",
            (thread, checkpoint_id),
        )


def test_a_graph_whose_reducer_fails_is_refused(saver: Any) -> None:
    graph = tree(frequency=100).compile(checkpointer=saver)
    talk(graph)
    before = states(graph, saver)

    def fails(items: Any, writes: Any) -> Any:
        raise TypeError(f"cannot add {len(writes)}")

    broken = tree(frequency=100).compile()
    broken.channels["said"].reducer = fails  # type: ignore[union-attr]
    with pytest.raises(PruneUnsafe, match=r"said of thread 't' could not be rebuilt .* cannot add"):
        checkpoints.prune(saver, keep_last=1, graph=broken)
    assert states(graph, saver) == before


@pytest.mark.parametrize("kind", ASYNC)
@pytest.mark.parametrize("with_graph", [True, False])
def test_aprune(kind: str, with_graph: bool, tmp_path: Path, empty_dsn: str) -> None:
    async def story() -> None:
        async with async_saver(kind, tmp_path / "a.db", empty_dsn) as saver:
            graph = tree(frequency=100, subgraph="call").compile(checkpointer=saver)
            runs = kind not in ("sqlite", "postgres")

            async def invoke() -> None:
                if runs:
                    await graph.ainvoke({"said": ["in"]}, config())
                else:
                    graph.invoke({"said": ["in"]}, config())

            for _ in range(TURNS):
                await invoke()
            asked: dict[str, Any] = {"keep_last": 2, "graph": graph if with_graph else None}
            expected = await checkpoints.aprune(saver, dry_run=True, **asked)
            report = await checkpoints.aprune(saver, batch_rows=20, grace_s=0.01, **asked)
            assert (report.checkpoints, report.kept, report.added) == (
                expected.checkpoints,
                expected.kept,
                expected.added,
            )
            assert report.checkpoints.rows > TURNS * 4
            await invoke()
            state = await graph.aget_state(config()) if runs else graph.get_state(config())
            assert state.values["said"] == said(TURNS + 1)

    asyncio.run(story())


def test_an_unknown_saver_is_told(empty_dsn: str) -> None:
    with pytest.raises(ConfigError, match="checkpoints of a dict are not known"):
        checkpoints.prune({}, keep_last=1)
    with (
        pytest.warns(DeprecationWarning, match="deprecated"),
        ShallowPostgresSaver.from_conn_string(empty_dsn) as shallow,
        pytest.raises(ConfigError, match="ShallowPostgresSaver are not known"),
    ):
        checkpoints.prune(shallow, keep_last=1)


@pytest.mark.parametrize("kind", ["async sqlite", "async postgres"])
def test_an_async_saver_needs_aprune(kind: str, tmp_path: Path, empty_dsn: str) -> None:
    async def story() -> None:
        async with async_saver(kind, tmp_path / "a.db", empty_dsn) as saver:
            with pytest.raises(ConfigError, match="await aprune"):
                checkpoints.prune(saver, keep_last=1)

    asyncio.run(story())


@pytest.mark.parametrize(
    ("asked", "what"),
    [
        ({}, "say what goes"),
        ({"keep_last": 0}, "at least 1, got 0"),
        ({"older_than": "a while"}, "a duration is"),
        ({"max_bytes": -1}, "at least 0, got -1"),
        ({"keep_last": 1, "thread_ids": "t"}, "the string 't'"),
        ({"keep_last": 1, "pinned": "id"}, "the string 'id'"),
        ({"keep_last": 1, "batch_rows": 0}, "batch_rows is at least 1"),
        ({"keep_last": 1, "rest": -0.5}, "rest at least 0, got 500, 1.0 and -0.5"),
        ({"keep_last": 1, "now": datetime(2026, 1, 1)}, "time zone"),  # noqa: DTZ001 - the point
    ],
)
def test_bad_arguments_are_told_before_anything_is_touched(asked: Any, what: str) -> None:
    saver = InMemorySaver()
    talk(tree().compile(checkpointer=saver), turns=2)
    before = rows(saver)
    with pytest.raises(ConfigError, match=what):
        checkpoints.prune(saver, **asked)
    assert rows(saver) == before


def test_graphs_that_differ_about_a_channel_are_told() -> None:
    one, other = tree(frequency=1).compile(), tree(frequency=2).compile()
    with pytest.raises(ConfigError, match="'said' in different ways"):
        checkpoints.prune(InMemorySaver(), keep_last=1, graph=[one, other])


def test_it_rests_between_transactions_in_proportion(monkeypatch: pytest.MonkeyPatch) -> None:
    saver = InMemorySaver()
    graph = tree(delta=False).compile(checkpointer=saver)
    for thread in ("a", "b", "c"):
        talk(graph, thread, turns=2)
    step, rests = _Job._step, []

    def slow(job: Any, *args: Any, **kwargs: Any) -> Any:
        time.sleep(0.02)
        return (yield from step(job, *args, **kwargs))

    monkeypatch.setattr(_Job, "_step", slow)
    monkeypatch.setattr(Pause, "run", lambda pause: rests.append(pause.seconds))
    report = checkpoints.prune(saver, keep_last=1, batch_rows=10, rest=3)
    assert report.pruned == 3
    # Nothing before the first and behind the last, though each thread took several.
    assert len(rests) > 3
    assert rests[0] == 0
    assert min(rests[1:]) >= 3 * 0.02
    rests.clear()
    checkpoints.prune(saver, keep_last=1, rest=1_000)
    assert rests == [0, 1, 1]  # it has an end
    rests.clear()
    checkpoints.prune(saver, keep_last=1, rest=0)
    assert rests == [0, 0, 0]


class Mirror:
    """A cipher that hides a checkpoint from whoever looks into its bytes."""

    def encrypt(self, plaintext: bytes) -> tuple[str, bytes]:
        return "mirror", plaintext[::-1]

    def decrypt(self, ciphername: str, ciphertext: bytes) -> bytes:
        assert ciphername == "mirror"
        return ciphertext[::-1]


def test_encrypted_checkpoints(tmp_path: Path) -> None:
    with SqliteSaver.from_conn_string(str(tmp_path / "e.db")) as plain:
        saver = SqliteSaver(plain.conn, serde=EncryptedSerializer(Mirror()))
        graph = tree(frequency=100).compile(checkpointer=saver)
        talk(graph)
        before = states(graph, saver)
        report = checkpoints.prune(
            saver, keep_last=2, older_than="1s", now=datetime.now(UTC) + timedelta(hours=1)
        )
        after = states(graph, saver)
        assert report.checkpoints.rows > 20
        assert after == {key: before[key] for key in after}


@pytest.mark.parametrize("how", ["pool", "pipeline"])
def test_postgres_by_pool_and_pipeline(how: str, empty_dsn: str) -> None:
    def story(saver: PostgresSaver) -> None:
        graph = tree(frequency=100).compile(checkpointer=saver)
        talk(graph)
        before = states(graph, saver)
        report = checkpoints.prune(saver, keep_last=2, batch_rows=10)
        after = states(graph, saver)
        assert report.checkpoints.rows > 20
        assert after == {key: before[key] for key in after}
        assert orphans(saver) == []

    if how == "pool":
        options = {"autocommit": True, "row_factory": dict_row}
        with ConnectionPool(empty_dsn, kwargs=options, min_size=1, max_size=3) as pool:
            saver = PostgresSaver(pool)  # type: ignore[arg-type]
            saver.setup()
            story(saver)
    else:
        with PostgresSaver.from_conn_string(empty_dsn) as plain:
            plain.setup()
        with PostgresSaver.from_conn_string(empty_dsn, pipeline=True) as saver:
            story(saver)


@pytest.mark.slow
@pytest.mark.parametrize("delta", [False, True])
@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
def test_beside_a_live_writer(
    saver: Any, delta: bool, durability: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that goes on in one thread while another prunes, with the least that can be kept."""
    graph = tree(frequency=5, subgraph="call", delta=delta).compile(checkpointer=saver)
    done = threading.Event()
    failed: list[BaseException] = []

    def prune() -> None:
        try:
            while not done.is_set():
                checkpoints.prune(saver, keep_last=1, batch_rows=10, grace_s=0.05)
        except BaseException as error:  # noqa: BLE001 - told below
            failed.append(error)

    pruner = threading.Thread(target=prune)
    pruner.start()
    try:
        for turns in range(1, 9):
            talk(graph, turns=1, durability=durability)
            assert graph.get_state(config()).values["said"] == said(turns)
    finally:
        done.set()
        pruner.join()
    assert failed == []
    # Writes of the run that has just ended count as on their way for a minute.
    monkeypatch.setattr(policy, "IN_FLIGHT", timedelta(0))
    assert checkpoints.prune(saver, keep_last=1).kept["last"] >= 1
    assert graph.get_state(config()).values["said"] == said(8)
    assert orphans(saver) == []


@pytest.mark.parametrize(("with_graph", "grace_s"), [(False, 1.0), (True, 1.0), (True, 0.0)])
def test_a_reader_in_the_middle_of_a_pruning(
    saver: Any, with_graph: bool, grace_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A DeltaChannel is read in several steps; what they need is there until they are done."""
    graph = tree(frequency=100).compile(checkpointer=saver)
    talk(graph, turns=4)
    before = saver.get_tuple(config())
    pruner = threading.Thread(
        target=checkpoints.prune,
        args=(saver,),
        kwargs={"keep_last": 1, "graph": graph if with_graph else None, "grace_s": grace_s},
    )
    read_history = type(saver).get_delta_channel_history

    def prepared() -> bool:
        now = saver.get_tuple(config())
        return "said" in stored_at(saver, config()) or now.parent_config != before.parent_config

    def late(reader: Any, **asked: Any) -> Any:
        pruner.start()
        if grace_s:
            while not prepared():
                time.sleep(0.01)
            assert pruner.is_alive()
        else:
            pruner.join()
        return read_history(reader, **asked)

    monkeypatch.setattr(type(saver), "get_delta_channel_history", late)
    values = graph.get_state(config()).values
    pruner.join()
    # Without the moment of grace the reader finds nothing, and is not told so.
    assert values["said"] == (said(4) if grace_s else [])
    monkeypatch.undo()
    assert graph.get_state(config()).values["said"] == said(4)
    assert len(ids(saver)) == 1


def test_two_prunings_at_once(empty_dsn: str) -> None:
    with (
        PostgresSaver.from_conn_string(empty_dsn) as one,
        PostgresSaver.from_conn_string(empty_dsn) as other,
    ):
        one.setup()
        graph = tree(frequency=100, subgraph="call").compile(checkpointer=one)
        for thread in ("a", "b"):
            talk(graph, thread)
        before = states(graph, one, "a")
        found: list[Any] = []

        def prune(saver: Any) -> Callable[[], None]:
            def run() -> None:
                found.append(checkpoints.prune(saver, keep_last=2, batch_rows=5, grace_s=0.1))

            return run

        workers = [threading.Thread(target=prune(saver)) for saver in (one, other)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert len(found) == 2
        after = states(graph, one, "a")
        assert after == {key: before[key] for key in after}
        assert orphans(one) == []
        assert len(ids(one, "a")) == len(ids(one, "b")) == 2


@dataclasses.dataclass
class Thing:
    """A class that a strict serializer does not know."""

    number: int


def test_a_class_that_is_read_strictly_is_not_written_as_plain_data(tmp_path: Path) -> None:
    with SqliteSaver.from_conn_string(str(tmp_path / "s.db")) as opened:
        saver = SqliteSaver(opened.conn, serde=JsonPlusSerializer(allowed_msgpack_modules=None))
        knows = saver.with_allowlist([(Thing.__module__, "Thing")])
        graph: Any = tree(frequency=3).compile(checkpointer=knows)
        for number in range(4):
            graph.invoke({"said": [Thing(number)], "note": {"thing": Thing(number)}}, config())
        before = states(graph, knows)
        with pytest.raises(PruneUnsafe, match=r"holds a .*Thing, which the strict serializer"):
            checkpoints.prune(saver, keep_last=1)
        assert states(graph, knows) == before
        checkpoints.prune(saver, keep_last=1, graph=graph)
        after = states(graph, knows)
        assert len(after) == 1
        assert after == {key: before[key] for key in after}
