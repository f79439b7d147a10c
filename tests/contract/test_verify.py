"""StaleFactCheck asks about stale facts once, and does what the answer says, exactly once.

The person's facts were told in January; it is June, and an address is fresh for a month only.
"""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.graph import END, START, StateGraph
from langgraph.store.memory import InMemoryStore
from langgraph.types import Command

from memkit import (
    MemoryRecall,
    MemoryState,
    SemanticStore,
    StaleFactCheck,
    StalenessPolicy,
    TokenTrimmer,
)
from memkit.budget import ContextBudget
from memkit.effects import stable_key
from memkit.errors import ConfigError, StoreMissing
from memkit.factbook import FactBook
from memkit.facts import Fact
from memkit.facts.verification import Turn, UnreadableAnswer, read_answers, to_ask
from tests.fakes import HashEmbeddings
from tests.graphs import config, said

FACTS = ("users", "ann@example%2Ecom", "facts")
POLICY = StalenessPolicy(default="10y", kinds={"address": "30d", "job": "30d"})
HOME, JOB, NAME = (stable_key(name) for name in ("home", "job", "name"))
TOLD = datetime(2026, 1, 10, tzinfo=UTC)
ASKED = "2026-06-15T12:00:00+00:00"
QUESTION = "Where do I live, what is my work, what is my name?"


def fact(key: str, text: str, kind: str, **more: Any) -> Fact:
    times = {"first_seen": TOLD, "last_updated": TOLD, "last_confirmed": TOLD}
    return Fact(text, kind=kind, key=key, **{**times, **more})


HOME_FACT = fact(HOME, "I live at 14 Linden Street.", "address", attribute="home_address")
JOB_FACT = fact(JOB, "My work is that of a baker.", "job")
NAME_FACT = fact(NAME, "My name is Ann.", "name")


def remember(store: Any, *facts: Fact) -> FactBook:
    for each in facts:
        store.put(FACTS, each.key, each.to_value(), index=["text"])
    return FactBook(store, FACTS)


@pytest.fixture(params=["InMemoryStore", "SemanticStore"])
def any_store(request: pytest.FixtureRequest) -> Any:
    if request.param == "SemanticStore":
        return request.getfixturevalue("store")
    embed = HashEmbeddings()
    return InMemoryStore(index={"embed": embed, "dims": embed.dims, "fields": ["text"]})


def builder_with(check: StaleFactCheck | None = None, **options: Any) -> StateGraph[Any]:
    builder: StateGraph[Any] = StateGraph(MemoryState)
    builder.add_node("recall", MemoryRecall(policy=POLICY))
    builder.add_node("verify", check or StaleFactCheck(POLICY, **options))
    builder.add_node("trim", TokenTrimmer(ContextBudget(2_000)))
    for start, end in (
        (START, "recall"),
        ("recall", "verify"),
        ("verify", "trim"),
        ("trim", END),
    ):
        builder.add_edge(start, end)
    return builder


def asking(**options: Any) -> StateGraph[Any]:
    return builder_with(on_stale="interrupt", **options)


def turn(day: str = "06-15", **more: Any) -> Any:
    return {"messages": [said(QUESTION, day, **more)]}


def asked_in(values: dict[str, Any]) -> dict[str, Any]:
    (interrupt,) = values["__interrupt__"]
    payload: dict[str, Any] = interrupt.value
    return payload


def keys_asked(values: dict[str, Any]) -> list[str]:
    return [f["key"] for f in asked_in(values)["facts"]]


def recalled(values: dict[str, Any]) -> dict[str, Any]:
    return {item["key"]: item for item in values["recalled"]}


def notes(values: dict[str, Any]) -> str:
    """What the model is shown of the facts."""
    return str(values["llm_input_messages"][-2].content)


# Every way to run a graph


def by_stream(graph: Any, given: Any, where: Any) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for chunk in graph.stream(given, where, stream_mode="values"):
        values |= chunk
    return values


async def by_astream(graph: Any, given: Any, where: Any) -> dict[str, Any]:
    values: dict[str, Any] = {}
    async for chunk in graph.astream(given, where, stream_mode="values"):
        values |= chunk
    return values


WAYS: dict[str, Callable[[Any, Any, Any], dict[str, Any]]] = {
    "invoke": lambda graph, given, where: graph.invoke(given, where),
    "stream": by_stream,
    "ainvoke": lambda graph, given, where: asyncio.run(graph.ainvoke(given, where)),
    "astream": lambda graph, given, where: asyncio.run(by_astream(graph, given, where)),
}


@pytest.mark.parametrize("way", WAYS)
def test_confirm_correct_and_retract_are_seen_in_the_same_turn(way: str) -> None:
    store = InMemoryStore()
    plan = fact(stable_key("plan"), "I work on Sundays.", "job")
    book = remember(store, HOME_FACT, JOB_FACT, plan, NAME_FACT)
    graph = asking().compile(checkpointer=InMemorySaver(), store=store)

    payload = asked_in(WAYS[way](graph, turn(), config("t1")))
    assert payload["memkit"] == "confirm_facts"
    assert set(payload) == {"memkit", "facts", "answers"}
    assert {"key": JOB, "text": JOB_FACT.text, "kind": "job",
            "last_confirmed": TOLD.isoformat()} in payload["facts"]  # fmt: skip
    assert {f["key"] for f in payload["facts"]} == {HOME, JOB, plan.key}
    answers = {JOB: "confirm", plan.key: "retract", HOME: {"correct": "I live at 3 Harbour Road."}}
    values = WAYS[way](graph, Command(resume={"answers": answers}), config("t1"))

    shown = recalled(values)
    assert shown[JOB]["freshness"] == "fresh"
    assert shown[JOB]["last_confirmed"] == ASKED
    assert shown[JOB]["last_updated"] == TOLD.isoformat()
    assert plan.key not in shown
    (home,) = [i for i in values["recalled"] if i["kind"] == "address"]
    assert (home["text"], home["freshness"]) == ("I live at 3 Harbour Road.", "fresh")
    assert (home["last_updated"], home["last_confirmed"]) == (ASKED, ASKED)
    assert "(2026-06-15) My work is that of a baker." in notes(values)
    assert values["memory"]["verify"]["fresh"] == 3

    corrected = book.get(home["key"])
    assert corrected is not None
    assert corrected.supersedes == HOME
    assert corrected.source["thread_id"] == "t1"
    assert corrected.source["checkpoint_id"]
    old = book.get(HOME)
    assert old is not None
    assert (old.status, old.superseded_by) == ("superseded", home["key"])
    status = {f.key: f.status for f in book.all()}
    assert status == {
        HOME: "superseded", home["key"]: "current", JOB: "current", plan.key: "retracted",
        NAME: "current",
    }  # fmt: skip


def test_on_both_stores_and_by_a_fresh_graph_on_postgres(any_store: Any, dsn: str) -> None:
    book = remember(any_store, HOME_FACT, JOB_FACT)
    with PostgresSaver.from_conn_string(dsn) as saver:
        saver.setup()
        graph = asking().compile(checkpointer=saver, store=any_store)
        keys = keys_asked(graph.invoke(turn(), config("t1")))
    # What waits is in the database: another process takes the answer.
    with PostgresSaver.from_conn_string(dsn) as saver:
        graph = asking().compile(checkpointer=saver, store=any_store)
        again = graph.invoke(Command(resume={"answers": {HOME: "maybe"}}), config("t1"))
        assert keys_asked(again) == keys
    with PostgresSaver.from_conn_string(dsn) as saver:
        graph = asking().compile(checkpointer=saver, store=any_store)
        values = graph.invoke(Command(resume={"answers": {HOME: "confirm"}}), config("t1"))
    shown = recalled(values)
    assert (shown[HOME]["freshness"], shown[HOME]["last_confirmed"]) == ("fresh", ASKED)
    assert (shown[JOB]["freshness"], shown[JOB]["ask"]) == ("stale", False)
    assert "(2026-01-10, may be outdated, not yet confirmed) My work" in notes(values)
    confirmed = book.get(HOME)
    assert confirmed is not None
    assert confirmed.last_confirmed == datetime.fromisoformat(ASKED)
    assert confirmed.last_updated == TOLD


def test_async_on_postgres(dsn: str) -> None:
    async def scenario() -> None:
        embed = HashEmbeddings()
        async with (
            SemanticStore.open(dsn, embed=embed, dims=embed.dims) as store,
            AsyncPostgresSaver.from_conn_string(dsn) as saver,
        ):
            await saver.setup()
            for each in (HOME_FACT, JOB_FACT):
                await store.aput(FACTS, each.key, each.to_value(), index=["text"])
            graph = asking().compile(checkpointer=saver, store=store)
            first = await graph.ainvoke(turn(), config("t1"))
            assert sorted(keys_asked(first)) == sorted([HOME, JOB])
            values = await graph.ainvoke(Command(resume="confirm"), config("t1"))
            assert {i["last_confirmed"] for i in values["recalled"]} == {ASKED}
            # Asked and answered: the next turn of the thread goes through.
            assert "__interrupt__" not in await graph.ainvoke(turn("06-16"), config("t1"))
            facts = await FactBook(store, FACTS).aall()
            assert {f.last_confirmed for f in facts} == {datetime.fromisoformat(ASKED)}

    asyncio.run(scenario())


def test_in_a_subgraph() -> None:
    store = InMemoryStore()
    remember(store, HOME_FACT)
    outer: StateGraph[Any] = StateGraph(MemoryState)
    outer.add_node("memory", asking().compile())
    outer.add_edge(START, "memory")
    outer.add_edge("memory", END)
    graph = outer.compile(checkpointer=InMemorySaver(), store=store)
    assert keys_asked(graph.invoke(turn(), config("t1"))) == [HOME]
    assert "problem" in asked_in(graph.invoke(Command(resume="eh"), config("t1")))
    values = graph.invoke(Command(resume="confirm"), config("t1"))
    assert recalled(values)[HOME]["freshness"] == "fresh"


# Answers


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        ("certainly", "'certainly' is no answer"),
        (7, "7 is no answer"),
        ({"answers": {HOME: "confirm", "other": "confirm"}}, "no question about 'other'"),
        ({"answers": {HOME: "retract", JOB: "eh"}}, "'eh' is no answer"),
        ({"answers": {HOME: "retract", JOB: {"correct": " "}}}, "what is true instead"),
        ({"correct": "I live in Bonn."}, "does not say of which"),
        ({HOME: "retract", JOB: 5}, "5 is no answer"),
    ],
)
def test_an_answer_that_cannot_be_read_changes_nothing_and_is_asked_for_again(
    reply: Any, problem: str
) -> None:
    store = InMemoryStore()
    book = remember(store, HOME_FACT, JOB_FACT)
    graph = asking().compile(checkpointer=InMemorySaver(), store=store)
    first = asked_in(graph.invoke(turn(), config("t1")))
    for _ in range(2):
        again = asked_in(graph.invoke(Command(resume=reply), config("t1")))
        assert problem in again.pop("problem")
        assert again == first
        assert {f.key: f for f in book.all()} == {HOME: HOME_FACT, JOB: JOB_FACT}
    values = graph.invoke(Command(resume="confirm"), config("t1"))
    assert {i["freshness"] for i in values["recalled"]} == {"fresh"}
    assert values["memory"]["verify"]["fresh"] == 2


def test_answers_may_come_bare_by_key() -> None:
    """LangGraph takes a mapping of such keys for answers by the ids of interrupts."""
    store = InMemoryStore()
    remember(store, HOME_FACT, JOB_FACT)
    graph = asking().compile(checkpointer=InMemorySaver(), store=store)
    graph.invoke(turn(), config("t1"))
    values = graph.invoke(Command(resume={HOME: "confirm", JOB: "skip"}), config("t1"))
    shown = recalled(values)
    assert (shown[HOME]["freshness"], shown[JOB]["freshness"]) == ("fresh", "stale")
    assert graph.get_state(config("t1")).next == ()


def test_answers_by_the_id_of_the_interrupt() -> None:
    store = InMemoryStore()
    remember(store, HOME_FACT)
    graph = asking().compile(checkpointer=InMemorySaver(), store=store)
    (interrupt,) = graph.invoke(turn(), config("t1"))["__interrupt__"]
    values = graph.invoke(Command(resume={interrupt.id: "confirm"}), config("t1"))
    assert recalled(values)[HOME]["freshness"] == "fresh"


def test_a_plain_correction_of_a_single_fact() -> None:
    store = InMemoryStore()
    remember(store, HOME_FACT)
    graph = asking().compile(checkpointer=InMemorySaver(), store=store)
    graph.invoke(turn(), config("t1"))
    values = graph.invoke(Command(resume={"correct": "I live in Bonn."}), config("t1"))
    assert [i["text"] for i in values["recalled"]] == ["I live in Bonn."]


def test_words_of_an_answer_are_read_whatever_their_case() -> None:
    assert [a.action for a in read_answers(" Confirm ", ["a", "b"]).values()] == ["confirm"] * 2
    assert read_answers({"a": "retract"}, ["a", "b"])["b"].action == "skip"
    with pytest.raises(UnreadableAnswer, match="no question about"):
        read_answers({"answers": {"c": "confirm"}}, ["a"])


def test_a_correction_with_a_secret_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "memkit.facts.verification.find_secrets", lambda text: ["x"] * ("4111" in text)
    )
    with pytest.raises(UnreadableAnswer, match="card number") as raised:
        read_answers({"correct": "My card is 4111."}, ["a"])
    assert "4111" not in str(raised.value)


# Others meanwhile


@pytest.mark.parametrize("answer", ["confirm", "retract", {"correct": "I live in Bonn."}])
def test_a_fact_that_is_gone_does_not_fail_the_turn(any_store: Any, answer: Any) -> None:
    book = remember(any_store, HOME_FACT, NAME_FACT)
    graph = asking().compile(checkpointer=InMemorySaver(), store=any_store)
    graph.invoke(turn(), config("t1"))
    any_store.delete(FACTS, HOME)
    events = list(graph.stream(Command(resume=answer), config("t1"), stream_mode="custom"))
    (event,) = [e for e in events if e["memkit"] == "verify"]
    assert event["answered"] == {"gone": 1}
    assert list(recalled(graph.get_state(config("t1")).values)) == [NAME]
    assert [f.key for f in book.all()] == [NAME]


def test_a_confirmation_of_what_was_replaced_meanwhile_shows_what_holds(any_store: Any) -> None:
    book = remember(any_store, HOME_FACT)
    graph = asking().compile(checkpointer=InMemorySaver(), store=any_store)
    graph.invoke(turn(), config("t1"))
    moved = book.correct(HOME, "I live in Bonn.", at=datetime(2026, 6, 14, tzinfo=UTC))
    values = graph.invoke(Command(resume="confirm"), config("t1"))
    assert [(i["key"], i["freshness"]) for i in values["recalled"]] == [(moved.key, "fresh")]
    assert book.get(moved.key) == moved


def test_a_correction_goes_to_what_replaced_the_fact_meanwhile(any_store: Any) -> None:
    book = remember(any_store, HOME_FACT)
    graph = asking().compile(checkpointer=InMemorySaver(), store=any_store)
    graph.invoke(turn(), config("t1"))
    book.correct(HOME, "I live in Bonn.", at=datetime(2026, 6, 14, tzinfo=UTC))
    values = graph.invoke(Command(resume={"correct": "I live in Kiel."}), config("t1"))
    assert [i["text"] for i in values["recalled"]] == ["I live in Kiel."]
    assert [f.text for f in book.all(status="current")] == ["I live in Kiel."]


# Crashes


class Crash(Exception):
    pass


class CrashingCheck(StaleFactCheck):
    """Dies after it has written to the store, before LangGraph has the result."""

    crashes = 1

    def body(self, visit: Any) -> Any:
        update = yield from super().body(visit)
        if self.crashes:
            self.crashes -= 1
            raise Crash
        return update


@pytest.mark.parametrize(
    "answer", ["confirm", "retract", {"correct": "I live in Bonn."}, {HOME: "confirm"}]
)
def test_a_crash_after_the_write_and_before_the_checkpoint(any_store: Any, answer: Any) -> None:
    book = remember(any_store, HOME_FACT)
    check = CrashingCheck(POLICY, on_stale="interrupt")
    graph = builder_with(check).compile(checkpointer=InMemorySaver(), store=any_store)
    first = asked_in(graph.invoke(turn(), config("t1")))
    with pytest.raises(Crash):
        graph.invoke(Command(resume=answer), config("t1"))
    written = {f.key: f for f in book.all()}
    values = graph.invoke(Command(resume=answer), config("t1"))
    assert "__interrupt__" not in values
    assert {f.key: f for f in book.all()} == written
    assert len(written) == (2 if isinstance(answer, dict) and "correct" in answer else 1)
    assert first["facts"][0]["key"] == HOME
    assert {i["freshness"] for i in values["recalled"]} <= {"fresh"}


def test_a_run_that_goes_on_after_a_crash_has_kept_the_answer(any_store: Any) -> None:
    book = remember(any_store, HOME_FACT)
    check = CrashingCheck(POLICY, on_stale="interrupt")
    graph = builder_with(check).compile(checkpointer=InMemorySaver(), store=any_store)
    graph.invoke(turn(), config("t1"))
    with pytest.raises(Crash):
        graph.invoke(Command(resume="confirm"), config("t1"))
    values = graph.invoke(None, config("t1"))
    assert recalled(values)[HOME]["last_confirmed"] == ASKED
    assert len(book.all()) == 1


class CrashBeforeInterrupt(StaleFactCheck):
    """Dies once the question is noted, before it is put."""

    crashes = 1

    def _answers(self, *args: Any) -> Any:
        if self.crashes:
            self.crashes -= 1
            raise Crash
        return super()._answers(*args)


def test_a_question_that_was_noted_and_not_put_is_put_by_the_next_run(any_store: Any) -> None:
    remember(any_store, HOME_FACT)
    check = CrashBeforeInterrupt(POLICY, on_stale="interrupt")
    graph = builder_with(check).compile(checkpointer=InMemorySaver(), store=any_store)
    with pytest.raises(Crash):
        graph.invoke(turn(), config("t1"))
    assert keys_asked(graph.invoke(None, config("t1"))) == [HOME]


def test_the_question_stays_the_same_while_the_clock_goes_on() -> None:
    """What became stale while a question waited is not taken for confirmed by its answer."""
    store = InMemoryStore()
    lately = datetime(2026, 6, 10, tzinfo=UTC)
    book = remember(store, HOME_FACT, fact(JOB, JOB_FACT.text, "job", last_confirmed=lately))
    clock = [datetime(2026, 6, 15, tzinfo=UTC)]
    graph = asking(clock=lambda: clock[0]).compile(checkpointer=InMemorySaver(), store=store)
    given = {"messages": [HumanMessage(QUESTION)]}
    assert keys_asked(graph.invoke(given, config("t1"))) == [HOME]
    clock[0] = datetime(2026, 8, 1, tzinfo=UTC)
    assert keys_asked(graph.invoke(Command(resume="eh"), config("t1"))) == [HOME]
    values = graph.invoke(Command(resume="confirm"), config("t1"))
    shown = recalled(values)
    assert (shown[HOME]["freshness"], shown[JOB]["freshness"]) == ("fresh", "stale")
    job = book.get(JOB)
    assert job is not None
    assert job.last_confirmed == lately


def test_a_question_waits_while_another_thread_asks_it_again_a_period_later() -> None:
    store = InMemoryStore()
    book = remember(store, HOME_FACT)
    graph = asking().compile(checkpointer=InMemorySaver(), store=store)
    graph.invoke(turn(), config("t1"))
    assert keys_asked(graph.invoke(turn("08-01"), config("t2"))) == [HOME]
    values = graph.invoke(Command(resume={"correct": "I live in Bonn."}), config("t1"))
    assert [i["text"] for i in values["recalled"]] == ["I live in Bonn."]
    values = graph.invoke(Command(resume="confirm"), config("t2"))
    assert [i["text"] for i in values["recalled"]] == ["I live in Bonn."]
    assert [f.text for f in book.all(status="current")] == ["I live in Bonn."]


# No nagging


def test_a_fact_is_asked_about_once_per_period_in_whichever_thread(any_store: Any) -> None:
    book = remember(any_store, HOME_FACT)
    graph = asking().compile(checkpointer=InMemorySaver(), store=any_store)
    assert keys_asked(graph.invoke(turn("06-15"), config("t1"))) == [HOME]
    values = graph.invoke(Command(resume="skip"), config("t1"))
    assert (recalled(values)[HOME]["freshness"], recalled(values)[HOME]["ask"]) == ("stale", False)
    # A conversation of February, replayed late, does not ask either.
    for thread, day in (("t1", "06-16"), ("t2", "06-17"), ("t3", "02-20"), ("t1", "07-14")):
        values = graph.invoke(turn(day), config(thread))
        assert "__interrupt__" not in values
        assert recalled(values)[HOME]["freshness"] == "stale"
        assert "(2026-01-10, may be outdated, not yet confirmed) I live" in notes(values)
    assert keys_asked(graph.invoke(turn("07-15"), config("t2"))) == [HOME]
    assert "__interrupt__" not in graph.invoke(turn("07-16"), config("t1"))
    assert book.get(HOME) == HOME_FACT


def test_a_question_that_nobody_answers_is_left(any_store: Any) -> None:
    remember(any_store, HOME_FACT)
    graph = asking().compile(checkpointer=InMemorySaver(), store=any_store)
    graph.invoke(turn("06-15"), config("t1"))
    values = graph.invoke(turn("06-16"), config("t1"))
    assert "__interrupt__" not in values
    assert recalled(values)[HOME]["freshness"] == "stale"


def test_asked_marks_are_kept_beside_the_facts_and_out_of_search(any_store: Any) -> None:
    book = remember(any_store, HOME_FACT)
    graph = asking().compile(checkpointer=InMemorySaver(), store=any_store)
    graph.invoke(turn(id="q1"), config("t1"))
    item = any_store.get(book.ledger, stable_key("asked", HOME))
    assert {k: item.value[k] for k in ("at", "thread_id", "by")} == {
        "at": ASKED, "thread_id": "t1", "by": "q1",
    }  # fmt: skip
    graph.invoke(Command(resume="eh"), config("t1"))
    assert any_store.get(book.ledger, item.key).value == item.value
    for n in range(20):  # a period each; the mark does not grow for ever
        graph.invoke(turn(f"0{7 + n // 10}-1{n % 10}", id=f"m{n}"), config(f"s{n}"))
    assert len(any_store.get(book.ledger, stable_key("asked", HOME)).value["earlier"]) <= 8


def test_the_best_matches_are_asked_about_first(any_store: Any) -> None:
    facts = [
        fact(stable_key(n), f"I live in town {n}" + " and more" * n, "address") for n in range(5)
    ]
    remember(any_store, *facts, NAME_FACT)
    graph = asking(max_questions=2).compile(checkpointer=InMemorySaver(), store=any_store)
    values = graph.invoke(turn(), config("t1"))
    scores = {i["key"]: i["score"] or 0 for i in values["recalled"] if i["key"] != NAME}
    asked = keys_asked(values)
    assert asked == sorted(scores, key=lambda key: scores[key], reverse=True)[:2]
    values = graph.invoke(Command(resume="confirm"), config("t1"))
    assert {k for k, i in recalled(values).items() if i["freshness"] == "fresh"} == {*asked, NAME}
    # The others have their turn.
    assert len(keys_asked(graph.invoke(turn("06-16"), config("t1")))) == 2


def test_which_facts_are_asked_about() -> None:
    now = datetime(2026, 6, 15, tzinfo=UTC)
    turn = Turn("t1", "m1", now)

    def found(key: str, score: float | None, **more: Any) -> Any:
        return {"key": key, "source": "facts", "freshness": "stale", "score": score, **more}

    facts = [
        found("pinned", None),
        found("far", 0.2),
        found("near", 0.9),
        found("fresh", 2.0, freshness="fresh"),
        found("over", 2.0, freshness="expired"),
        found("turn", 2.0, source="turns"),
    ]

    def ask(marks: dict[str, Any], limit: int = 9) -> list[str]:
        return to_ask(facts, marks, turn, again_after=timedelta(days=30), limit=limit)

    assert ask({}) == ["near", "far", "pinned"]
    assert ask({}, limit=1) == ["near"]
    lately = Turn("t2", "m9", now - timedelta(days=29)).mark()
    long_ago = Turn("t2", "m9", now - timedelta(days=30)).mark()
    later = Turn("t2", "m9", now + timedelta(days=90)).mark()
    assert ask({"near": lately, "far": long_ago, "pinned": later}) == ["far"]
    # What this turn asked before is what it asks, and nothing else.
    assert ask({"far": turn.mark(), "near": long_ago}, limit=1) == ["far"]
    assert ask({"over": turn.mark()}) == ["over"]


def test_a_turn_that_comes_by_again_has_had_its_answer() -> None:
    """A loop of tool calls may lead through recall and check more than once."""
    store = InMemoryStore()
    remember(store, HOME_FACT)
    builder = asking()
    builder.add_node("check_again", StaleFactCheck(POLICY, on_stale="interrupt"))
    builder.add_node("recall_again", MemoryRecall(policy=POLICY))
    builder.edges.discard(("trim", END))
    for start, end in (("trim", "recall_again"), ("recall_again", "check_again")):
        builder.add_edge(start, end)
    builder.add_edge("check_again", END)
    graph = builder.compile(checkpointer=InMemorySaver(), store=store)
    graph.invoke(turn(), config("t1"))
    values = graph.invoke(Command(resume="skip"), config("t1"))
    assert "__interrupt__" not in values
    assert recalled(values)[HOME]["freshness"] == "stale"


def test_turns_and_expired_facts_are_not_asked_about() -> None:
    store = InMemoryStore()
    over = fact(JOB, JOB_FACT.text, "job", valid_to=datetime(2026, 2, 1, tzinfo=UTC))
    remember(store, HOME_FACT, over)
    item = {
        "key": "turn", "source": "turns", "text": "I live at 14 Linden Street.", "kind": "address",
        "last_updated": TOLD.isoformat(), "last_confirmed": TOLD.isoformat(), "freshness": "stale",
        "score": 9.0, "message_ids": ["m"], "thread_id": "t0",
    }  # fmt: skip
    builder: StateGraph[Any] = StateGraph(MemoryState)
    builder.add_node("verify", StaleFactCheck(POLICY, on_stale="interrupt"))
    builder.add_edge(START, "verify")
    builder.add_edge("verify", END)
    graph = builder.compile(checkpointer=InMemorySaver(), store=store)
    gone = {**item, "key": JOB, "source": "facts", "freshness": "expired"}
    values = graph.invoke({**turn(), "recalled": [item, gone]}, config("t1"))
    assert "__interrupt__" not in values
    assert [(i["key"], i["ask"]) for i in values["recalled"]] == [("turn", False)]


# Marks


def test_the_first_turn_tells_the_model_to_ask_and_later_ones_do_not(any_store: Any) -> None:
    book = remember(any_store, HOME_FACT, NAME_FACT)
    graph = builder_with().compile(checkpointer=InMemorySaver(), store=any_store)
    values = graph.invoke(turn(), config("t1"))
    assert "(2026-01-10, may be outdated: confirm before relying on it) I live" in notes(values)
    assert "(2026-01-10) My name is Ann." in notes(values)
    for thread, day in (("t1", "06-16"), ("t2", "06-20")):
        values = graph.invoke(turn(day), config(thread))
        assert "(2026-01-10, may be outdated, not yet confirmed) I live" in notes(values)
    values = graph.invoke(turn("08-01"), config("t2"))
    assert "confirm before relying on it" in notes(values)
    assert {f.key: f for f in book.all()} == {HOME: HOME_FACT, NAME: NAME_FACT}


def test_a_marked_turn_that_runs_again_marks_the_same(any_store: Any) -> None:
    remember(any_store, HOME_FACT)
    check = CrashingCheck(POLICY)
    graph = builder_with(check).compile(checkpointer=InMemorySaver(), store=any_store)
    with pytest.raises(Crash):
        graph.invoke(turn(), config("t1"))
    assert "confirm before relying on it" in notes(graph.invoke(None, config("t1")))


def test_the_model_is_told_to_ask_about_a_few_at_a_time(any_store: Any) -> None:
    remember(any_store, HOME_FACT, JOB_FACT)
    graph = builder_with(max_questions=1).compile(checkpointer=InMemorySaver(), store=any_store)
    seen = []
    for day in ("06-15", "06-16", "06-17"):
        values = graph.invoke(turn(day), config("t1"))
        seen.append({key for key, item in recalled(values).items() if item["ask"]})
    assert [len(keys) for keys in seen] == [1, 1, 0]
    assert seen[0] | seen[1] == {HOME, JOB}


def test_without_a_store_marks_are_as_before() -> None:
    builder: StateGraph[Any] = StateGraph(MemoryState)
    builder.add_node("verify", StaleFactCheck(POLICY))
    builder.add_edge(START, "verify")
    builder.add_edge("verify", END)
    item = {
        "key": HOME, "source": "facts", "text": HOME_FACT.text, "kind": "address", "score": 1.0,
        "last_updated": TOLD.isoformat(), "last_confirmed": TOLD.isoformat(), "freshness": "fresh",
        "message_ids": [], "thread_id": None,
    }  # fmt: skip
    values = builder.compile().invoke({**turn(), "recalled": [item]})
    assert values["recalled"] == [{**item, "freshness": "stale"}]


def test_the_event_tells_what_was_asked_and_answered() -> None:
    store = InMemoryStore()
    remember(store, HOME_FACT, JOB_FACT, NAME_FACT)
    graph = asking().compile(checkpointer=InMemorySaver(), store=store)

    def events(given: Any) -> list[Any]:
        found = graph.stream(given, config("t1"), stream_mode="custom")
        return [e for e in found if e["memkit"] == "verify"]

    assert events(turn()) == []  # it waits
    (event,) = events(Command(resume={"answers": {HOME: "confirm"}}))
    assert event["answered"] == {"confirm": 1, "skip": 1}
    assert set(event["stale"]) == set(event["asked"]) == {HOME, JOB}
    assert event["expired"] == []
    (event,) = events(turn("06-16"))
    assert (event["stale"], event["asked"], event["answered"]) == ([JOB], [], {})


# Settings


def test_interrupts_need_a_checkpointer_and_a_store() -> None:
    store = InMemoryStore()
    remember(store, HOME_FACT)
    with pytest.raises(ConfigError, match="no checkpointer"):
        asking().compile(store=store).invoke(turn(), config("t1"))
    with pytest.raises(ConfigError, match="no checkpointer"):
        StaleFactCheck(POLICY, on_stale="interrupt").invoke(turn())
    builder: StateGraph[Any] = StateGraph(MemoryState)
    builder.add_node("verify", StaleFactCheck(POLICY, on_stale="interrupt"))
    builder.add_edge(START, "verify")
    with pytest.raises(StoreMissing):
        builder.compile(checkpointer=InMemorySaver()).invoke(turn(), config("t1"))


@pytest.mark.parametrize(
    "options",
    [
        {"on_stale": "ask"},
        {"ask_again_after": "soon"},
        {"max_questions": 0},
        {"max_questions": True},
        {"namespace": "facts"},
        {"recalled_key": None},
    ],
)
def test_bad_settings_are_refused_when_the_node_is_built(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        StaleFactCheck(POLICY, **options)
