"""MemoryRecall: what is chosen from what was found."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.store.base import BaseStore, Op, SearchItem, SearchOp
from langgraph.store.memory import InMemoryStore

from memkit import ContextBudget, MemoryRecall, MemoryState
from memkit.errors import ConfigError
from memkit.facts.sameness import canonical, near_copies
from memkit.ranking import CONFIDENCE_WEIGHT, RECENCY_WEIGHT
from memkit.view import RECALLED_ID, SUMMARY_ID, build_view
from tests.fakes import HashEmbeddings
from tests.graphs import config, memory_graph, said

NOW = said("Do I drink green tea in the morning?", "06-01", id="q")
TODAY = "2026-06-01T12:00:00+00:00"
MAY = "2026-05-01T00:00:00+00:00"


def recall(
    items: list[tuple[str, str, dict[str, Any]]],
    *,
    embed: HashEmbeddings | None = None,
    messages: Sequence[BaseMessage] = (NOW,),
    **arguments: Any,
) -> list[dict[str, Any]]:
    """Recall with a store that holds items given as (source, text, more of the value)."""
    embed = embed or HashEmbeddings()
    store = InMemoryStore(index={"embed": embed, "dims": embed.dims, "fields": ["text"]})
    for n, (source, text, more) in enumerate(items):
        value = {
            "text": text,
            "status": "current",
            "last_updated": MAY,
            "source": {"thread_id": "t0", "message_ids": [f"m{n}"]},
            **more,
        }
        store.put(("users", "ann@example%2Ecom", source), f"{source}{n}", value)
    return recalled_from(store, messages, **arguments)


def recalled_from(
    store: BaseStore, messages: Sequence[BaseMessage] = (NOW,), **arguments: Any
) -> list[dict[str, Any]]:
    builder: StateGraph[Any, Any, Any, Any] = StateGraph(MemoryState)
    builder.add_node("recall", MemoryRecall(**{"sources": ("facts", "turns"), **arguments}))
    builder.add_edge(START, "recall")
    state = builder.compile(store=store).invoke({"messages": list(messages)}, config("t1"))
    return list(state["recalled"])


class RankedStore(BaseStore):
    """Answers every search with the items of its namespace and filter, at the scores they carry."""

    def __init__(self, items: Iterable[Mapping[str, Any]]) -> None:
        self.items = [dict(item) for item in items]
        self.batches: list[list[Op]] = []

    def batch(self, ops: Iterable[Op]) -> list[Any]:
        self.batches.append(list(ops))
        return [self._found(op) if isinstance(op, SearchOp) else None for op in self.batches[-1]]

    async def abatch(self, ops: Iterable[Op]) -> list[Any]:
        return self.batch(ops)

    @property
    def searches(self) -> list[list[Op]]:
        """The batches that search; another one gets the words of facts."""
        return [batch for batch in self.batches if any(isinstance(op, SearchOp) for op in batch)]

    def _found(self, op: SearchOp) -> list[SearchItem]:
        at = datetime(2026, 6, 1, tzinfo=UTC)
        found = [
            SearchItem(
                op.namespace_prefix,
                f"k{n}",
                {k: v for k, v in item.items() if k not in {"in", "score"}},
                at,
                at,
                item["score"] if op.query else None,
            )
            for n, item in enumerate(self.items)
            if item["in"] == op.namespace_prefix[-1]
            and all(item.get(k) == v for k, v in (op.filter or {}).items())
        ]
        return sorted(found, key=lambda one: one.score or 0, reverse=True)[: op.limit]


def fact(text: str, score: float | None = 0.5, **more: Any) -> dict[str, Any]:
    value = {"in": "facts", "text": text, "status": "current", "last_updated": TODAY}
    return {**value, "score": score, **more}


def texts(found: Iterable[Mapping[str, Any]]) -> list[str]:
    return [item["text"] for item in found]


def source(*ids: str, thread: str = "t0") -> dict[str, Any]:
    return {"source": {"thread_id": thread, "message_ids": list(ids)}}


def test_all_facts_of_one_message_are_recalled() -> None:
    facts = ["I drink tea in the morning", "I get up early in the morning", "My cup is green"]
    found = recall([("facts", text, source("m")) for text in facts])
    assert {r["text"] for r in found} == set(facts)
    scores = [r["score"] for r in found]
    assert scores == sorted(scores, reverse=True)


def test_nothing_is_said_both_as_a_turn_and_as_a_fact() -> None:
    exact, far = "Do I drink green tea in the morning?", "my boat"
    turn_first = recall([("facts", far, source("m")), ("turns", exact, source("m"))])
    assert [(r["source"], r["text"]) for r in turn_first] == [("turns", exact)]
    fact_first = recall([("facts", exact, source("m")), ("turns", far, source("m"))])
    assert [(r["source"], r["text"]) for r in fact_first] == [("facts", exact)]


def test_a_turn_is_as_old_as_the_facts_that_were_taken_from_it() -> None:
    old = {"last_updated": "2025-01-01T00:00:00+00:00"}
    ended = {"valid_to": "2026-01-01T00:00:00+00:00"}
    turn = ("turns", "Do I drink green tea in the morning?", source("m"))
    (stale,) = recall([("facts", "my boat", {**source("m"), **old}), turn])
    assert (stale["source"], stale["freshness"]) == ("turns", "stale")
    assert recall([("facts", "my boat", {**source("m"), **ended}), turn]) == []
    one_of_two = [("facts", "my boat", {**source("m"), **ended}), ("facts", "tea", source("m"))]
    (fresh,) = recall([*one_of_two, turn])
    assert fresh["freshness"] == "fresh"
    shown = recall([("facts", "my boat", {**source("m"), **ended}), turn], include_expired=True)
    assert [r["freshness"] for r in shown] == ["expired"]


def test_what_the_model_sees_anyway_and_what_is_superseded_is_left_out() -> None:
    here = source("q", thread="t1")
    gone = {"status": "superseded"}
    joke = ("facts", "green tea", {"status": "retracted"})
    assert recall([joke], include_expired=True) == []
    assert recall([("turns", "user: green tea", here), ("facts", "green tea", gone)]) == []


def test_the_limit_holds_and_no_query_finds_nothing() -> None:
    items: list[tuple[str, str, dict[str, Any]]] = [
        ("facts", f"green tea number {n}", {}) for n in range(20)
    ]
    assert len(recall(items, limit=5)) == 5
    builder: StateGraph[Any, Any, Any, Any] = StateGraph(MemoryState)
    builder.add_node("recall", MemoryRecall())
    builder.add_edge(START, "recall")
    graph = builder.compile(store=InMemoryStore())
    assert graph.invoke({"messages": [HumanMessage("")]}, config("t"))["recalled"] == []


def test_facts_of_this_thread_come_back_once_the_summary_has_covered_their_words() -> None:
    embed = HashEmbeddings()
    store = InMemoryStore(index={"embed": embed, "dims": embed.dims, "fields": ["text"]})
    graph = memory_graph(turns=False).compile(checkpointer=InMemorySaver(), store=store)
    graph.invoke({"messages": [HumanMessage("I am allergic to peanuts.")]}, config("t"))
    for n in range(20):
        text = f"Parcel number {n} came in the morning, and it was blue, as always."
        graph.invoke({"messages": [HumanMessage(text)]}, config("t"))
    state = graph.invoke({"messages": [HumanMessage("allergic to peanuts?")]}, config("t"))
    assert [r["text"] for r in state["recalled"]] == ["I am allergic to peanuts."]


# -- the query ---------------------------------------------------------------------------------


def asked_for(messages: Sequence[BaseMessage], **arguments: Any) -> list[str | None]:
    """Return the queries that reach the store, and check that there is one round trip."""
    store = RankedStore([])
    recalled_from(store, messages, **arguments)
    assert len(store.searches) <= 1
    return [op.query for batch in store.batches for op in batch if isinstance(op, SearchOp)]


def test_a_window_of_turns_is_searched_for_latest_first() -> None:
    said_so_far = [
        HumanMessage("one"),
        HumanMessage("two"),
        AIMessage("reply"),
        HumanMessage("three"),
    ]
    # One search for each source, and one for the facts that no longer hold.
    assert asked_for(said_so_far) == ["three"] * 3
    assert asked_for(said_so_far, window=2, sources=("facts",)) == ["three\ntwo"]
    assert asked_for(said_so_far, window=9, sources=("facts",)) == ["three\ntwo\none"]


def test_notes_in_the_history_are_no_query() -> None:
    notes = [
        HumanMessage("Notes", id=RECALLED_ID),
        HumanMessage("So far", id=SUMMARY_ID),
        HumanMessage("Summary", additional_kwargs={"lc_source": "summarization"}),
    ]
    for note in notes:
        assert asked_for([HumanMessage("tea?"), note], sources=("facts",)) == ["tea?"]
    assert asked_for([HumanMessage("tea?"), *notes], window=4, sources=("facts",)) == ["tea?"]
    assert asked_for(notes) == []


def test_no_secret_reaches_the_embedder() -> None:
    embed = HashEmbeddings()
    asked = HumanMessage("Is 4111 1111 1111 1111 the card that I pay for tea with?")
    found = recall([("facts", "I pay for tea with my card", {})], messages=[asked], embed=embed)
    assert texts(found) == ["I pay for tea with my card"]
    assert embed.query_calls
    assert not any("4111" in query for query in embed.query_calls)


# -- ranking -----------------------------------------------------------------------------------


def test_age_and_confidence_decide_between_memories_that_are_about_as_near() -> None:
    old, older = "2026-03-01T00:00:00+00:00", "2024-03-01T00:00:00+00:00"
    near = [
        fact("I sail", 0.5, last_updated=older),
        fact("We row", 0.5, last_updated=old),
        fact("They swim", 0.5),
        fact("You surf", 0.5, confidence=0.1),
        fact("She dives", 0.5, last_updated=older, last_confirmed=TODAY),
    ]
    found = recalled_from(RankedStore(near))
    assert texts(found)[:2] == ["They swim", "She dives"]
    assert texts(found).index("We row") < texts(found).index("I sail")
    assert texts(found).index("You surf") > 1
    clearly = recalled_from(RankedStore([*near, fact("I walk", 0.7, last_updated=older)]))
    assert texts(clearly)[0] == "I walk"


def test_a_score_is_the_stores_less_a_little() -> None:
    (certain,) = recalled_from(RankedStore([fact("I sail", 0.5)]))
    assert certain["score"] == 0.5
    gone = fact("I sail", 0.5, last_updated=None, confidence=0)
    (doubtful,) = recalled_from(RankedStore([gone]))
    assert doubtful["score"] == pytest.approx(0.5 - RECENCY_WEIGHT - CONFIDENCE_WEIGHT)
    (later,) = recalled_from(RankedStore([fact("I sail", 0.5, last_updated="2031-01-01")]))
    assert later["score"] == 0.5


def test_what_has_no_score_comes_last_and_the_latest_of_it_first() -> None:
    items = [
        fact("I sail", None, last_updated=MAY),
        fact("We row", None),
        fact("They swim", float("nan"), last_updated="2026-05-20"),
        fact("I walk", -0.3),
    ]
    found = recalled_from(RankedStore(items))
    assert texts(found) == ["I walk", "We row", "They swim", "I sail"]
    assert [item["score"] for item in found] == [-0.3, None, None, None]


def test_of_near_copies_the_most_recent_stays_and_the_place_goes_to_the_next_best() -> None:
    items = [
        fact("I drink green tea in the garden every morning", 0.9, last_updated=MAY),
        fact("I drink green tea in my garden every morning", 0.8),
        fact("I always drink green tea in the garden every morning", 0.7, last_updated=MAY),
        fact("I own a boat", 0.3),
        fact("I row", 0.2),
    ]
    found = recalled_from(RankedStore(items), limit=2)
    assert texts(found) == ["I drink green tea in my garden every morning", "I own a boat"]
    # It says the same, and so matters as much.
    assert found[0]["score"] == recalled_from(RankedStore(items[:1]))[0]["score"]


def test_the_most_recent_stands_for_all_that_it_copies() -> None:
    stem = "I keep seven brown hens behind our old wooden barn"
    older = [
        fact(stem.replace("brown", "white"), 0.9, last_updated=MAY),
        fact(stem.replace("old", "new"), 0.8, last_updated=MAY),
    ]
    assert len(recalled_from(RankedStore(older))) == 2
    assert texts(recalled_from(RankedStore([*older, fact(stem, 0.7)]))) == [stem]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            fact("I drink tea in the garden with Ben every morning"),
            fact("I never drink tea in the garden with Ben every morning"),
        ),
        (
            fact("I have 2 boats on the lake in the north of the country"),
            fact("I have 3 boats on the lake in the north of the country"),
        ),
        (fact("I like tea", subject="Ann"), fact("I like tea", subject="Ben")),
        (
            fact("I drink green tea in the morning"),
            {**fact("user: Do I drink green tea in the morning?", speaker="user"), "in": "turns"},
        ),
        (fact("I like tea"), fact("I like tea", valid_to=MAY)),
    ],
    ids=["negation", "number", "subject", "question", "expired"],
)
def test_what_differs_is_no_copy(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert len(recalled_from(RankedStore([one, other]), include_expired=True)) == 2


def test_a_turn_that_says_a_fact_again_is_its_copy() -> None:
    turn = {**fact("Ann: I like tea", 0.4, speaker="Ann"), "in": "turns"}
    (latest,) = recalled_from(
        RankedStore([fact("I like tea", 0.5, subject="Ann", last_updated=MAY), turn])
    )
    assert latest["source"] == "turns"


# -- what is pinned ----------------------------------------------------------------------------

NAME = fact("My name is Ann", 0.1, attribute="name")
GERMAN = fact("I speak German", 0.2, attribute="language")
TEA = fact("I drink tea", 0.9)


def test_pinned_facts_come_first_in_one_round_trip() -> None:
    store = RankedStore([TEA, GERMAN, NAME, fact("I sail", 0.8)])
    found = recalled_from(store, pinned=("name", "language"), limit=3)
    assert texts(found) == ["My name is Ann", "I speak German", "I drink tea"]
    assert len(store.searches) == 1
    assert texts(recalled_from(store, limit=3)) == ["I drink tea", "I sail", "I speak German"]
    assert texts(recalled_from(store, pinned=("name", "language"), limit=1)) == ["My name is Ann"]


def test_pinned_facts_come_without_a_query_too() -> None:
    store = RankedStore([TEA, NAME])
    assert texts(recalled_from(store, [HumanMessage("")], pinned=("name",))) == ["My name is Ann"]
    assert len(store.searches) == 1


def test_pinned_facts_are_current_and_stay_though_they_were_just_said() -> None:
    seen = {"source": {"thread_id": "t1", "message_ids": ["q"]}}
    assert texts(recalled_from(RankedStore([{**NAME, **seen}]), pinned=("name",)))
    assert recalled_from(RankedStore([{**NAME, **seen}])) == []
    for gone in ({"status": "superseded"}, {"valid_to": MAY}):
        assert recalled_from(RankedStore([{**NAME, **gone}]), pinned=("name",)) == []
    married = fact("My name is Ann Miller", 0.1, attribute="name", status="superseded")
    shown = recalled_from(RankedStore([TEA, married]), pinned=("name",), include_expired=True)
    assert texts(shown) == ["I drink tea", "My name is Ann Miller"]


def test_of_two_values_the_latest_is_pinned_first_and_copies_of_it_are_left_out() -> None:
    maiden = fact("My name is Ann Miller", attribute="name", last_updated=MAY)
    turn = {**fact("user: My name is Ann", 0.9, speaker="user"), "in": "turns"}
    found = recalled_from(RankedStore([maiden, NAME, turn]), pinned=("name",))
    assert texts(found) == ["My name is Ann", "My name is Ann Miller"]


# -- the budget --------------------------------------------------------------------------------


def test_what_is_returned_fits_the_share_and_all_of_it_is_shown() -> None:
    budget = ContextBudget(1000, recall_tokens=90)
    long = fact("I drink tea " + "and then some more of it " * 20, 0.9)
    items = [long, *(fact(f"I like tea of sort {n}", 0.5) for n in range(20))]
    found = recalled_from(RankedStore(items), budget=budget, limit=20)
    assert 1 < len(found) < 20
    assert long["text"] not in texts(found)
    assert build_view([NOW], budget, recalled=found).left_out == []
    assert len(recalled_from(RankedStore(items), budget=budget, limit=1)) == 1
    more = recalled_from(RankedStore(items), limit=20)
    assert build_view([NOW], budget, recalled=more).left_out == ["facts"]
    assert recalled_from(RankedStore(items), budget=ContextBudget(1000, recall_tokens=0)) == []


@pytest.mark.parametrize(
    "arguments",
    [
        {"window": 0},
        {"window": True},
        {"budget": 4000},
        {"pinned": "name"},
        {"pinned": (3,)},
        {"pinned": ("name",), "sources": ("turns",)},
    ],
)
def test_settings_that_make_no_sense_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        MemoryRecall(**arguments)


# -- whatever is in the store ------------------------------------------------------------------

WORDS = ("I", "never", "drink", "like", "green", "tea", "boats", "2", "3", "Ben?")
dates = st.none() | st.sampled_from([TODAY, MAY, "2024-01-01", "2031-01-01"])
memories = st.lists(
    st.fixed_dictionaries(
        {
            "in": st.sampled_from(["facts", "turns"]),
            "text": st.lists(st.sampled_from(WORDS), min_size=1, max_size=8).map(" ".join),
            "status": st.just("current"),
            "score": st.none() | st.floats(-1, 1),
            "subject": st.sampled_from(["user", "Ann"]),
            "confidence": st.floats(0, 1),
            "last_updated": dates,
            "last_confirmed": dates,
            "attribute": st.sampled_from([None, None, "name"]),
            "source": st.fixed_dictionaries(
                {
                    "thread_id": st.sampled_from(["t0", "t1"]),
                    "message_ids": st.lists(st.sampled_from(["a", "b", "c"]), max_size=2),
                }
            ),
        }
    ),
    max_size=25,
)


@settings(max_examples=150)
@given(memories, st.integers(1, 8), st.sampled_from([(), ("name",)]), st.integers(40, 200))
def test_what_is_returned_holds_what_is_promised(
    items: list[dict[str, Any]], limit: int, pinned: tuple[str, ...], tokens: int
) -> None:
    budget = ContextBudget(1000, recall_tokens=tokens)
    store = RankedStore(items)
    found = recalled_from(store, limit=limit, pinned=pinned, budget=budget)
    assert len(store.searches) == 1
    assert len(found) <= limit
    assert build_view([NOW], budget, recalled=found).left_out == []
    assert json.loads(json.dumps(found, allow_nan=False)) == found

    kept = [(item, items[int(item["key"][1:])]) for item in found]
    by_name = [value["in"] == "facts" and value["attribute"] in pinned for _, value in kept]
    behind = by_name.index(False) if False in by_name else len(kept)
    scores = [float("-inf") if item["score"] is None else item["score"] for item in found[behind:]]
    assert scores == sorted(scores, reverse=True)
    for n, (item, value) in enumerate(kept):
        for other, its in kept[:n]:
            same_sort = value["subject"] == its["subject"] and ("?" in item["text"]) == (
                "?" in other["text"]
            )
            a, b = (canonical(i["text"], value["subject"]) for i in (item, other))
            assert not (same_sort and near_copies(a, b))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
FIELDS = (
    "text", "kind", "subject", "speaker", "attribute", "confidence", "status", "last_updated",
    "last_confirmed", "valid_to", "source", "data",
)  # fmt: skip


@settings(max_examples=150)
@given(
    st.lists(
        st.fixed_dictionaries(
            {"in": st.sampled_from(["facts", "turns"]), "score": st.none() | st.floats()},
            optional={
                **dict.fromkeys(FIELDS, json_values),
                "text": st.just("I drink tea") | json_values,
                "source": json_values
                | st.fixed_dictionaries(
                    {}, optional={"thread_id": json_values, "message_ids": json_values}
                ),
            },
        ),
        max_size=4,
    )
)
def test_items_of_any_shape_leave_the_turn_alive(items: list[dict[str, Any]]) -> None:
    good = fact("I sail on the lake", 0.5)
    found = recalled_from(RankedStore([*items, good]), include_expired=True)
    assert good["text"] in texts(found)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


@pytest.mark.parametrize("status", ["superseded", "retracted"])
def test_a_turn_is_left_out_once_all_it_told_no_longer_holds(status: str) -> None:
    place = {"source": {"thread_id": "t0", "message_ids": ["m"]}}
    turn = ("turns", "user: I drink green tea in the morning", place)
    gone = ("facts", "I drink green tea in the morning", {**place, "status": status})
    holds = ("facts", "I drink my tea with milk", place)
    assert recall([turn, gone]) == []
    assert len(recall([turn])) == 1
    # What else it told still holds.
    assert {item["source"] for item in recall([turn, gone, holds], limit=8)} <= {"turns", "facts"}
    assert recall([turn, gone, holds]) != []
    (shown,) = recall([turn, gone], include_expired=True, sources=("facts", "turns"))[:1]
    assert shown["freshness"] == "expired"


def test_a_question_about_what_was_is_answered_by_what_was_said() -> None:
    place = {"source": {"thread_id": "t0", "message_ids": ["m"]}}
    turn = ("turns", "user: I drink green tea in the morning", place)
    gone = ("facts", "I drink green tea in the morning", {**place, "status": "superseded"})
    for past in ("Did I drink green tea in the morning?", "Which tea was it before?"):
        (told,) = recall([turn, gone], messages=[HumanMessage(past)])
        assert (told["source"], told["freshness"]) == ("turns", "fresh")
