"""Memories that are searched for what was said, each behind the same two methods."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol, TypeVar

import numpy as np
import psycopg
import snowballstemmer
from langchain_core.embeddings import Embeddings
from langchain_core.runnables import RunnableConfig
from langgraph.graph import END, START, StateGraph
from langgraph.store.base import BaseStore, PutOp
from langgraph.store.memory import InMemoryStore
from psycopg import sql
from psycopg.conninfo import make_conninfo

from benchmarks.fact_peers import Stopwatch
from benchmarks.peers import InstantModel
from benchmarks.retrieval import LIMIT, Found
from benchmarks.tokens import EMBEDDING_DIMS, as_message, config_of, question_message
from memkit import FactExtractor, MemoryRecall, MemoryState, SemanticStore, TurnRecorder
from memkit.demo.conversations import Conversation, Line, Question
from memkit.effects import run, write
from memkit.messages import speaker_of
from memkit.namespaces import escape_label

T = TypeVar("T")

MEMKIT, PEER, IN_MEMORY, MEM0, BM25 = "memkit", "PostgresStore", "InMemoryStore", "mem0", "BM25"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a system returned for a question.

    Attributes:
        found: Best first.
        seconds: How long it took, embedding included.
        embedding_s: The part of it in which the question was embedded.
    """

    found: list[Found]
    seconds: float
    embedding_s: float


class System(Protocol):
    """A memory of turns, with one tenant per conversation."""

    def load(self, conversation: Conversation) -> None:
        """Take in everything that was said."""

    def ask(self, conversation: Conversation, question: Question) -> Answer:
        """Search the tenant of a conversation."""


class SharedEmbeddings(Embeddings):
    """Embeds each stored text once for all systems, and each question every time anew.

    Args:
        inner: What embeds.
        watch: Takes the time of questions.

    Attributes:
        asking: Whether questions are embedded now; before that, texts to store.
    """

    def __init__(self, inner: Embeddings, watch: Stopwatch) -> None:
        self.asking = False
        self._inner = inner
        self._watch = watch
        self._stored: dict[str, np.ndarray[Any, np.dtype[np.float32]]] = {}

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return a vector per text."""
        if self.asking:
            with self._watch.running():
                return self._inner.embed_documents(texts)
        new = [text for text in dict.fromkeys(texts) if text not in self._stored]
        if new:
            for text, vector in zip(new, self._inner.embed_documents(new), strict=True):
                self._stored[text] = np.array(vector, dtype=np.float32)
        return [self._stored[text].tolist() for text in texts]

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of a question; mem0 asks for those of stored texts in this way too."""
        # The inner one remembers recent questions, which would favour whoever is asked last.
        return self.embed_documents([text])[0]


def said(line: Line) -> str:
    """Return a line with its speaker, as TurnRecorder stores it and every peer is given it."""
    return f"{speaker_of(as_message(line))}: {line.text}"


# -- memkit ------------------------------------------------------------------------------------


def record(conversation: Conversation, store: BaseStore, *, facts: bool = False) -> None:
    """Write the turns of a conversation with TurnRecorder, each session in a thread of its own.

    Args:
        conversation: What was said.
        store: Where to.
        facts: Whether FactExtractor, without a model, takes down facts beside them.
    """
    builder: StateGraph[Any, Any, Any, Any] = StateGraph(MemoryState)
    builder.add_node("record", TurnRecorder())
    builder.add_edge(START, "record")
    if facts:
        builder.add_node("extract", FactExtractor(None))
        builder.add_edge("record", "extract")
    graph = builder.compile(store=store)
    for session in conversation.sessions:
        messages = [as_message(line) for line in session.lines]
        graph.invoke({"messages": messages}, config_of(conversation, session.id))


class Memkit:
    """TurnRecorder and MemoryRecall in graphs over a store.

    Args:
        store: Where the turns are.
        watch: That of the embedder of the store.
        writes: Whether `load` writes; else another one does.
        facts: Whether it writes facts, too.
        recall: Arguments of MemoryRecall.
    """

    def __init__(
        self,
        store: BaseStore,
        watch: Stopwatch,
        *,
        writes: bool = True,
        facts: bool = False,
        recall: Mapping[str, Any] | None = None,
    ) -> None:
        self._store = store
        self._watch = watch
        self._writes = writes
        self._facts = facts
        self._answers: list[Answer] = []
        node = MemoryRecall(**{"limit": LIMIT, "sources": ("turns",), **(recall or {})})

        def search(state: MemoryState, config: RunnableConfig) -> dict[str, Any]:
            # The node's own time: a peer is not called through a graph.
            update, answer = _timed(watch, lambda: node.invoke(state, config), _recalled)
            self._answers.append(answer)
            return update

        builder: StateGraph[Any, Any, Any, Any] = StateGraph(MemoryState)
        builder.add_node("recall", search)
        builder.add_edge(START, "recall")
        builder.add_edge("recall", END)
        self._graph = builder.compile(store=store)

    def load(self, conversation: Conversation) -> None:
        """Record every turn."""
        if self._writes:
            record(conversation, self._store, facts=self._facts)

    def ask(self, conversation: Conversation, question: Question) -> Answer:
        """Run the graph in a thread of the question's own."""
        self._graph.invoke(
            {"messages": [question_message(question, conversation)]},
            config_of(conversation, question.id),
        )
        return self._answers.pop()


def _recalled(update: Mapping[str, Any]) -> list[Found]:
    return [Found(tuple(item["message_ids"]), item["text"]) for item in update["recalled"]]


def _timed(
    watch: Stopwatch, search: Callable[[], T], read: Callable[[T], list[Found]]
) -> tuple[T, Answer]:
    """Return what a search gives, also as an answer with the time it took."""
    embedded, start = watch.seconds, perf_counter()
    result = search()
    took, embedded = perf_counter() - start, watch.seconds - embedded
    return result, Answer(read(result), took, embedded)


# -- the field ---------------------------------------------------------------------------------


class Stored:
    """A LangGraph store whose items are turns, searched as it does it."""

    def __init__(self, store: BaseStore, watch: Stopwatch) -> None:
        self._store = store
        self._watch = watch

    def load(self, conversation: Conversation) -> None:
        """Put every line, session by session."""
        place = _place(conversation)
        for session in conversation.sessions:
            # InMemoryStore fails on a batch that holds two equal texts.
            run(
                write(
                    self._store,
                    [PutOp(place, line.id, {"text": said(line)}) for line in session.lines],
                )
            )

    def ask(self, conversation: Conversation, question: Question) -> Answer:
        """Search the namespace of the conversation."""
        place = _place(conversation)

        return _timed(
            self._watch,
            lambda: self._store.search(place, query=question.text, limit=LIMIT),
            lambda items: [Found((item.key,), item.value["text"]) for item in items],
        )[1]


def _place(conversation: Conversation) -> tuple[str, ...]:
    return ("users", escape_label(conversation.id), "turns")


class Mem0:
    """mem0's Memory as it is by default, with a local Qdrant; it stores what it is given."""

    def __init__(self, embeddings: Embeddings, watch: Stopwatch, directory: Path) -> None:
        # It reports its use over the network otherwise.
        os.environ["MEM0_TELEMETRY"] = "False"
        os.environ["MEM0_DIR"] = str(directory)
        self._watch = watch
        self._memory = import_module("mem0").Memory.from_config(
            {
                # Nothing is asked of it, but it insists on one.
                "llm": {"provider": "langchain", "config": {"model": InstantModel()}},
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

    def load(self, conversation: Conversation) -> None:
        """Add every line by a call of its own, whose metadata name it."""
        for session in conversation.sessions:
            for line in session.lines:
                self._memory.add(
                    [{"role": "assistant" if line.by_assistant else "user", "content": said(line)}],
                    user_id=conversation.id,
                    metadata={"line": line.id},
                    infer=False,
                )

    def ask(self, conversation: Conversation, question: Question) -> Answer:
        """Search the memories of the conversation."""
        return _timed(
            self._watch,
            lambda: self._memory.search(
                question.text, filters={"user_id": conversation.id}, top_k=LIMIT
            )["results"],
            lambda items: [Found((item["metadata"]["line"],), item["memory"]) for item in items],
        )[1]


class Words:
    """BM25 over English stems without stop words, an index per conversation.

    Of what is usual that serves these data best: the library's longer list of stop words, and the
    parameters that Anserini takes for passages.
    """

    def __init__(self) -> None:
        self._bm25s = import_module("bm25s")
        logging.getLogger("bm25s").setLevel(logging.WARNING)  # it turns its own debugging on
        self._stemmer = snowballstemmer.stemmer("english")
        self._indexes: dict[str, tuple[Any, list[Line]]] = {}

    def load(self, conversation: Conversation) -> None:
        """Index every line."""
        lines = [line for session in conversation.sessions for line in session.lines]
        index = self._bm25s.BM25(k1=0.9, b=0.4)
        index.index(self._stems([said(line) for line in lines]), show_progress=False)
        self._indexes[conversation.id] = index, lines

    def ask(self, conversation: Conversation, question: Question) -> Answer:
        """Search the index of the conversation; lines that share no word are not returned."""
        index, lines = self._indexes[conversation.id]

        def search() -> list[tuple[int, float]]:
            rows, scores = index.retrieve(
                self._stems([question.text]), k=min(LIMIT, len(lines)), show_progress=False
            )
            return list(zip(rows[0].tolist(), scores[0].tolist(), strict=True))

        def read(ranked: list[tuple[int, float]]) -> list[Found]:
            found = [lines[row] for row, score in ranked if score > 0]
            return [Found((line.id,), said(line)) for line in found]

        return _timed(Stopwatch(), search, read)[1]

    def _stems(self, texts: Sequence[str]) -> Any:
        return self._bm25s.tokenize(
            list(texts), stopwords="english_plus", stemmer=self._stemmer, show_progress=False
        )


# -- opening them ------------------------------------------------------------------------------


class Opener:
    """Opens each system, on one embedded server where it needs one.

    Args:
        dsn: The maintenance database of the server.
        embeddings: What all of them embed with.
        watch: That of the embeddings.
        directory: Where mem0 keeps its files.
        resources: Closes what was opened.
    """

    def __init__(
        self,
        dsn: str,
        embeddings: Embeddings,
        watch: Stopwatch,
        directory: Path,
        resources: ExitStack,
    ) -> None:
        self._dsn = dsn
        self._embeddings = embeddings
        self._watch = watch
        self._directory = directory
        self._resources = resources
        self._store: SemanticStore | None = None
        self._databases: dict[str, str] = {}

    @property
    def peers(self) -> dict[str, Callable[[], System]]:
        """How each of the field is opened; one that is not installed raises ImportError."""
        return {
            PEER: self._postgres_store,
            IN_MEMORY: self._in_memory_store,
            MEM0: lambda: Mem0(self._embeddings, self._watch, self._directory / "mem0"),
            BM25: Words,
        }

    def memkit(self, recall: Mapping[str, Any] | None = None, *, facts: bool = False) -> Memkit:
        """Open memkit; all of them have one store, which the first one writes."""
        writes = self._store is None
        if self._store is None:
            opened = SemanticStore.open(
                self._database(MEMKIT), embed=self._embeddings, dims=EMBEDDING_DIMS
            )
            self._store = self._resources.enter_context(opened)
            self._store.setup()
        return Memkit(self._store, self._watch, writes=writes, facts=facts, recall=recall)

    def sizes(self) -> dict[str, int]:
        """Return the bytes of the tables of each system on the server, with their indexes."""
        found = {}
        for name, dsn in self._databases.items():
            with psycopg.connect(dsn) as connection:
                row = connection.execute(
                    "SELECT sum(pg_total_relation_size(oid)) FROM pg_class"
                    " WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
                ).fetchone()
            found[name] = int(row[0]) if row else 0
        return found

    def _postgres_store(self) -> System:
        found = import_module("langgraph.store.postgres").PostgresStore
        dsn = self._database(PEER)
        store = self._resources.enter_context(
            found.from_conn_string(
                dsn,
                index={"dims": EMBEDDING_DIMS, "embed": self._embeddings, "fields": ["text"]},
            )
        )
        store.setup()
        return Stored(store, self._watch)

    def _in_memory_store(self) -> System:
        store = InMemoryStore(
            index={"dims": EMBEDDING_DIMS, "embed": self._embeddings, "fields": ["text"]}
        )
        return Stored(store, self._watch)

    def _database(self, name: str) -> str:
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        self._databases[name] = make_conninfo(self._dsn, dbname=name)
        return self._databases[name]
