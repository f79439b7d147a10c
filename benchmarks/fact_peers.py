"""Memories that take facts down with a model, each behind the same two methods.

All of them ask a model that answers from the annotations of a dialogue, in the form that each of
them wants, and nothing else: what differs is what they ask, and what they do with the answer.
"""

import json
import os
import re
import threading
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

from langchain_core.embeddings import Embeddings
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.utils.function_calling import convert_to_openai_tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.store.base import BaseStore
from pydantic import Field, PrivateAttr

from benchmarks.fact_dialogues import Dialogue, Observation
from benchmarks.tokens import EMBEDDING_DIMS, as_message
from memkit import FactExtractor, MemoryState
from memkit.demo.conversations import Line
from memkit.factbook import FactBook
from memkit.messages import text_of
from memkit.tokens import TokenCounter

MEMKIT, MEM0, LANGMEM = "memkit", "mem0", "LangMem"


class Stopwatch:
    """The time in which the model or the embedder works, several threads at once counted once."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._lock = threading.Lock()
        self._running = 0
        self._since = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the time of a block."""
        with self._lock:
            if not self._running:
                self._since = perf_counter()
            self._running += 1
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1
                if not self._running:
                    self.seconds += perf_counter() - self._since


class TimedEmbeddings(Embeddings):
    """Embeddings whose time is taken."""

    def __init__(self, inner: Embeddings, watch: Stopwatch) -> None:
        self._inner = inner
        self._watch = watch

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return a vector per text."""
        with self._watch.running():
            return self._inner.embed_documents(texts)

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of a query."""
        with self._watch.running():
            return self._inner.embed_query(text)


# -- the model ---------------------------------------------------------------------------------


def as_said(line: Line) -> str:
    """Return a line with its speaker, as every system is shown it."""
    return f"{line.speaker}: {line.text}"


class Scripted(BaseChatModel):
    """Answers with the observations whose evidence it is shown, and counts what it is asked.

    Lines are recognised by their whole text in the part of the prompt that holds new messages:
    memories and earlier messages that are shown beside them are no evidence.
    """

    watch: Stopwatch = Field(exclude=True)
    calls: int = 0
    prompt_tokens: int = 0
    proposed: int = 0
    _tokens: TokenCounter = PrivateAttr(default_factory=TokenCounter.for_model)
    _lines: list[tuple[str, re.Pattern[str]]] = PrivateAttr(default_factory=list)
    _observations: tuple[Observation, ...] = PrivateAttr(default=())

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def study(self, dialogue: Dialogue) -> None:
        """Know the annotations of a dialogue, and no others any more."""
        self._observations = dialogue.observations
        evidence = {i for seen in dialogue.observations for i in seen.evidence}
        self._lines = [
            (line.id, re.compile(self.line_pattern(re.escape(as_said(line))), re.MULTILINE))
            for line in dialogue.lines
            if line.id in evidence
        ]

    def _generate(
        self,
        messages: list[BaseMessage],
        *args: Any,  # noqa: ARG002 - stop words and callbacks have no part in the answer
        **kwargs: Any,
    ) -> ChatResult:
        with self.watch.running():
            tools = kwargs.get("tools") or []
            self.calls += 1
            self.prompt_tokens += self._tokens.messages(messages)
            self.prompt_tokens += self._tokens.tools(tools) if tools else 0
            section = self.new_messages("\n\n".join(text_of(message) for message in messages))
            shown = {
                line: found[1] for line, place in self._lines if (found := place.search(section))
            }
            facts = [seen for seen in self._observations if not seen.evidence.isdisjoint(shown)]
            self.proposed += len(facts)
            reply = self.reply(facts, shown)
            return ChatResult(generations=[ChatGeneration(message=reply)])

    @abstractmethod
    def line_pattern(self, said: str) -> str:
        """Return the pattern of a shown line; its first group is what the line is cited by."""

    @abstractmethod
    def new_messages(self, prompt: str) -> str:
        """Return the part of a prompt that holds the new messages."""

    @abstractmethod
    def reply(self, facts: Sequence[Observation], shown: Mapping[str, str]) -> AIMessage:
        """Return the answer; `shown` has what each line that is shown is cited by."""


class ForMemkit(Scripted):
    """Answers memkit's prompt with JSON in its text."""

    def line_pattern(self, said: str) -> str:
        """Return the pattern of `[1] (2026-05-01, Friday) Ann: text`."""
        return rf"^\[(\d+)\] \([^)\n]*\) {said}[ \t]*$"

    def new_messages(self, prompt: str) -> str:
        """Return what stands under "Messages:"."""
        return prompt.rpartition("Messages:\n")[2]

    def reply(self, facts: Sequence[Observation], shown: Mapping[str, str]) -> AIMessage:
        """Return the facts with the numbers of their messages."""
        entries = [
            {
                "text": seen.text,
                "kind": "statement",
                "subject": seen.speaker,
                "attribute": None,
                "message_ids": [n for line, n in shown.items() if line in seen.evidence],
            }
            for seen in facts
        ]
        return AIMessage(json.dumps({"facts": entries}))


class ForMem0(Scripted):
    """Answers mem0's prompt with JSON in its text."""

    def line_pattern(self, said: str) -> str:
        """Return the pattern of `user: Ann: text`."""
        return rf"^(user): {said}[ \t]*$"

    def new_messages(self, prompt: str) -> str:
        """Return its section of new messages."""
        section = prompt.rpartition("## New Messages\n")[2]
        return section.partition("\n\n## Observation Date")[0]

    def reply(
        self,
        facts: Sequence[Observation],
        shown: Mapping[str, str],  # noqa: ARG002 - its facts cite nothing
    ) -> AIMessage:
        """Return memories to add."""
        entries = [{"id": str(n), "text": seen.text} for n, seen in enumerate(facts)]
        return AIMessage(json.dumps({"memory": entries}))


class ForLangMem(Scripted):
    """Answers LangMem's prompt with one call of its tool per fact."""

    def line_pattern(self, said: str) -> str:
        """Return the pattern of `Ann: text`."""
        return rf"^({said})[ \t]*$"

    def new_messages(self, prompt: str) -> str:
        """Return the session."""
        found = re.search(r"<session_[^>]*>(.*)</session_", prompt, re.DOTALL)
        return found[1] if found else ""

    def reply(
        self,
        facts: Sequence[Observation],
        shown: Mapping[str, str],  # noqa: ARG002 - its facts cite nothing
    ) -> AIMessage:
        """Return the calls."""
        calls: list[Any] = [
            {"name": "Memory", "args": {"content": seen.text}, "id": f"{self.calls}-{n}"}
            for n, seen in enumerate(facts)
        ]
        return AIMessage("", tool_calls=calls)

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[Any, AIMessage]:
        """Let the model see tools."""
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools], **kwargs)


# -- the memories ------------------------------------------------------------------------------


class FactMemory(Protocol):
    """Takes down facts with a model."""

    model: Scripted
    refused: int | None
    """How many proposals it kept back, where it tells."""

    def take(self, user: str, thread: str, lines: Sequence[Line]) -> None:
        """Read what was said in a sitting, in one go."""

    def stored(self, user: str) -> list[str]:
        """Return the texts that it would recall."""

    def items(self, user: str) -> int:
        """Return how many facts it holds, outdated ones included."""

    def forget_cursors(self) -> None:
        """Lose what is kept per thread and not in the store, as after a crash."""


class Memkit:
    """FactExtractor in a graph of its own."""

    def __init__(self, watch: Stopwatch, store: BaseStore) -> None:
        self.model: Scripted = ForMemkit(watch=watch)
        self.refused: int | None = 0
        self._store = store
        self.forget_cursors()

    def forget_cursors(self) -> None:
        """Begin with an empty checkpointer."""
        builder: StateGraph[Any, Any, Any, Any] = StateGraph(MemoryState)
        builder.add_node("remember", FactExtractor(self.model))
        builder.add_edge(START, "remember")
        builder.add_edge("remember", END)
        self._graph = builder.compile(checkpointer=InMemorySaver(), store=self._store)

    def take(self, user: str, thread: str, lines: Sequence[Line]) -> None:
        """Run the graph on a sitting.

        Raises:
            RuntimeError: It went wrong, which the node itself only reports.
        """
        events = self._graph.stream(
            {"messages": [as_message(line) for line in lines]},
            {"configurable": {"thread_id": thread, "user_id": user}},
            stream_mode="custom",
            durability="exit",
        )
        for event in events:
            if event["memkit"] == "failed":
                raise RuntimeError(f"nothing was taken down: {event['error']}")
            self.refused = (self.refused or 0) + sum(event["refused"].values())

    def stored(self, user: str) -> list[str]:
        """Return the texts of the current facts."""
        return [fact.text for fact in self._book(user).all(status="current")]

    def items(self, user: str) -> int:
        """Return the number of facts of any status."""
        return len(self._book(user).all())

    def _book(self, user: str) -> FactBook:
        return FactBook(self._store, ("users", user, "facts"))


class Mem0:
    """mem0's Memory as it is by default, with a local Qdrant: it only ever adds."""

    def __init__(self, watch: Stopwatch, embeddings: Embeddings, directory: Path) -> None:
        # It reports its use over the network otherwise.
        os.environ["MEM0_TELEMETRY"] = "False"
        os.environ["MEM0_DIR"] = str(directory)
        self.model: Scripted = ForMem0(watch=watch)
        self.refused: int | None = None
        self._memory = import_module("mem0").Memory.from_config(
            {
                "llm": {"provider": "langchain", "config": {"model": self.model}},
                "embedder": {"provider": "langchain", "config": {"model": embeddings}},
                "vector_store": {
                    "provider": "qdrant",
                    "config": {
                        "path": str(directory / "qdrant"),
                        "embedding_model_dims": EMBEDDING_DIMS,
                        "on_disk": True,
                    },
                },
                "history_db_path": str(directory / "history.db"),
            }
        )

    def take(
        self,
        user: str,
        thread: str,  # noqa: ARG002 - it has none
        lines: Sequence[Line],
    ) -> None:
        """Add a sitting; it knows neither threads nor ids of messages."""
        said = [{"role": "user", "content": as_said(line)} for line in lines]
        self._memory.add(said, user_id=user)

    def stored(self, user: str) -> list[str]:
        """Return all memories."""
        found = self._memory.get_all(filters={"user_id": user}, top_k=1_000_000)
        return [memory["memory"] for memory in found["results"]]

    def items(self, user: str) -> int:
        """Return the number of memories."""
        return len(self.stored(user))

    def forget_cursors(self) -> None:
        """Do nothing: it has none."""


class LangMem:
    """LangMem's store manager as it is by default."""

    def __init__(self, watch: Stopwatch, store: BaseStore) -> None:
        self.model: Scripted = ForLangMem(watch=watch)
        self.refused: int | None = None
        self._store = store
        self._manager = import_module("langmem").create_memory_store_manager(
            self.model, store=store
        )

    def take(self, user: str, thread: str, lines: Sequence[Line]) -> None:
        """Invoke the manager on a sitting; it knows neither threads nor ids of messages."""
        # It joins messages in a row under the first name, so that each has to say who speaks.
        said = [HumanMessage(as_said(line), id=line.id) for line in lines]
        config = {"configurable": {"langgraph_user_id": user, "thread_id": thread}}
        self._manager.invoke({"messages": said}, config)

    def stored(self, user: str) -> list[str]:
        """Return all memories."""
        found: list[str] = []
        while page := self._store.search(("memories", user), limit=500, offset=len(found)):
            found += [item.value["content"]["content"] for item in page]
        return found

    def items(self, user: str) -> int:
        """Return the number of memories."""
        return len(self.stored(user))

    def forget_cursors(self) -> None:
        """Do nothing: it has none."""


def memories(
    watch: Stopwatch, embeddings: Embeddings, store: BaseStore, directory: Path
) -> dict[str, Callable[[], FactMemory]]:
    """Return how each memory is begun; one that is not installed raises ModuleNotFoundError."""
    return {
        MEMKIT: lambda: Memkit(watch, store),
        LANGMEM: lambda: LangMem(watch, store),
        MEM0: lambda: Mem0(watch, embeddings, directory),
    }
