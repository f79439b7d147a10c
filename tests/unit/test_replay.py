"""The replay cut off at every single write it makes, on stores and savers in memory."""

import threading
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from langchain_core.load import dumpd
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.store.base import Op, PutOp
from langgraph.store.memory import InMemoryStore

from memkit.budget import ContextBudget
from memkit.demo.conversations import Conversation, Line, Question, Session
from memkit.demo.replay import (
    Memory,
    Options,
    QuestionAnswered,
    SessionEnded,
    SessionStarted,
    forget,
    replay,
)
from memkit.errors import ConfigError

BUDGET = ContextBudget(
    120, counter=lambda messages: sum(len(str(m.content)) for m in messages) // 4
)
SAID = [
    "My name is Ada Berg. I live at 3 Mill Road, Ulm.",
    "Welcome, Ada. I send your parcel to 3 Mill Road.",
    "I moved to 9 Lake View, Kiel. I am allergic to nuts.",
    "Noted, Ada: 9 Lake View in Kiel, and no nuts.",
    "I like green tea more than anything else in the world.",
    "Then a tin of green tea it is.",
]


def conversation(*, two_people: bool = False, said: list[str] = SAID) -> Conversation:
    def line(n: int, text: str) -> Line:
        return Line(
            id=f"ada/s1/{n}",
            speaker=("Ada", "Bo")[(n - 1) % 2] if two_people else None,
            by_assistant=not two_people and n % 2 == 0,
            text=text,
            said_at=f"2026-01-0{n}T10:00:00+00:00",
        )

    lines = [line(n, text) for n, text in enumerate(said, 1)]
    return Conversation(
        id="ada",
        title="Ada",
        two_people=two_people,
        system=None if two_people else "Be brief.",
        sessions=(Session("s1", "2026-01-01T10:00:00+00:00", tuple(lines)),),
        questions=(Question("ada/questions/1", "Where do I live?", "Kiel", ("ada/s1/3",)),),
        asked_at="2026-03-01T10:00:00+00:00",
    )


class Killed(BaseException):
    """The process is gone."""


class Fuse:
    """Lets a number of writes pass, and kills at the next one, before or after it is done."""

    def __init__(self, writes: int | None, *, after: bool = False) -> None:
        self.left = writes
        self.after = after
        self.count = 0
        self.lock = threading.Lock()

    def through(self, write: Callable[[], Any]) -> Any:
        with self.lock:
            self.count += 1
            blown = self.left is not None and self.count > self.left
            last = self.left is not None and self.count == self.left + 1
        if blown and not (self.after and last):
            raise Killed
        result = write()
        if blown:
            raise Killed
        return result


class FusedSaver(InMemorySaver):
    fuse = Fuse(None)

    def put(self, *args: Any) -> Any:
        return self.fuse.through(lambda: super(FusedSaver, self).put(*args))

    def put_writes(self, *args: Any) -> None:
        self.fuse.through(lambda: super(FusedSaver, self).put_writes(*args))


class FusedStore(InMemoryStore):
    fuse = Fuse(None)

    def batch(self, ops: Iterable[Op]) -> list[Any]:
        ops = list(ops)
        if not any(isinstance(op, PutOp) for op in ops):
            return super().batch(ops)
        return list(self.fuse.through(lambda: super(FusedStore, self).batch(ops)))


def embed(texts: list[str]) -> list[list[float]]:
    """Return letter counts: enough for an order that repeats."""
    return [[float(text.lower().count(c)) for c in "abcdefghijklmnopqrstuvwxyz"] for text in texts]


def memory() -> Memory:
    index: Any = {"embed": embed, "dims": 26, "fields": ["text"]}
    return Memory(FusedSaver(), FusedStore(index=index))


def kept(memory: Memory) -> dict[str, Any]:
    threads = {}
    for name in ("ada/s1", "ada/questions"):
        found = memory.saver.get_tuple({"configurable": {"thread_id": name}})
        values = found.checkpoint["channel_values"] if found else {}
        threads[name] = {
            key: [dumpd(m) for m in value] if "messages" in key else value
            for key, value in values.items()
            if key != "memory" and not key.startswith("branch")
        }
    items = {}
    for item in memory.store.search(("users",), limit=1000):
        value = dict(item.value)
        if "source" in value:
            source = {k: v for k, v in value["source"].items() if k != "checkpoint_id"}
            value["source"] = source
        items[(*item.namespace, item.key)] = value
    return {"threads": threads, "items": items}


def play(memory: Memory, fuse: Fuse, talk: Conversation) -> list[Any]:
    FusedSaver.fuse = FusedStore.fuse = fuse
    return list(replay(talk, memory, Options(budget=BUDGET)))


@pytest.mark.parametrize("after", [False, True])
def test_cut_off_at_any_write_it_goes_on_to_the_same_end(after: bool) -> None:
    talk = conversation()
    whole = memory()
    counting = Fuse(None)
    play(whole, counting, talk)
    expected = kept(whole)
    assert counting.count > 40
    for writes in range(counting.count):
        broken = memory()
        with pytest.raises(Killed):
            play(broken, Fuse(writes, after=after), talk)
        play(broken, Fuse(None), talk)
        assert kept(broken) == expected, f"cut off at write {writes}"


def test_a_finished_replay_writes_nothing_and_tells_the_same() -> None:
    talk, kept_memory = conversation(), memory()
    first = play(kept_memory, Fuse(None), talk)
    again = Fuse(None)
    second = play(kept_memory, again, talk)
    assert again.count == 0
    told = (SessionEnded, QuestionAnswered)
    assert [e for e in second if isinstance(e, told)] == [e for e in first if isinstance(e, told)]
    assert [e.lines_done for e in second if isinstance(e, SessionStarted)] == [len(SAID)]


def test_figures_and_closing_say_what_happened() -> None:
    events = play(memory(), Fuse(None), conversation())
    (ended,) = [event for event in events if isinstance(event, SessionEnded)]
    assert [turn["id"] for turn in ended.turns] == ["ada/s1/1", "ada/s1/3", "ada/s1/5"]
    assert ended.turns[-1]["full"] == sum(map(len, ["Be brief.", *SAID[:5]])) // 4
    assert all(turn["sent"] <= BUDGET.max_tokens for turn in ended.turns)
    assert [fact["text"] for fact in ended.closing["superseded"]] == ["I live at 3 Mill Road, Ulm."]
    kept_facts = {fact["text"]: fact for fact in ended.closing["kept"]}
    assert kept_facts["I moved to 9 Lake View, Kiel."]["last_updated"].startswith("2026-01-03")
    (answered,) = [event for event in events if isinstance(event, QuestionAnswered)]
    assert answered.hit
    assert answered.answer["recalled"]


def test_between_two_people_both_speak_and_both_are_remembered() -> None:
    talk, kept_memory = conversation(two_people=True), memory()
    play(kept_memory, Fuse(None), talk)
    facts = kept_memory.store.search(("users", "ada", "facts"), limit=100)
    assert {item.value["subject"] for item in facts} == {"Ada", "Bo"}
    turns = kept_memory.store.search(("users", "ada", "turns"), limit=100)
    assert len(turns) == len(SAID)


def test_another_conversation_under_the_same_name_is_refused_and_forget_makes_room() -> None:
    talk, kept_memory = conversation(), memory()
    other = conversation(said=[text.replace("Mill", "Hill") for text in SAID])
    play(kept_memory, Fuse(None), talk)
    with pytest.raises(ConfigError, match="holds another conversation under the name 'ada'"):
        play(kept_memory, Fuse(None), other)
    forget(talk, kept_memory)
    assert kept_memory.store.search(("users",), limit=10) == []
    play(kept_memory, Fuse(None), other)
