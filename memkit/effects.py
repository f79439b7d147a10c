"""One body for sync and async.

A node's logic is a generator: it yields what it wants from the outside (ask a model, use a store)
and gets the answer sent back. `run` and `arun` drive such a generator; an exception of the effect
is raised at the `yield`, where the body can catch it.

    def recall(store):
        (items,) = yield StoreBatch(store, [SearchOp(("users", "ann"), query="tea")])
        return items

    run(recall(store))  # or: await arun(recall(store))
"""

import hashlib
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.embeddings import Embeddings
from langchain_core.messages import BaseMessage
from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.store.base import BaseStore, Op, PutOp, SearchItem

T = TypeVar("T")


class Effect(Protocol):
    """Something a body may ask of the outside world."""

    def run(self) -> Any:
        """Do it and return the answer."""

    async def arun(self) -> Any:
        """Do it without blocking the event loop."""


Body: TypeAlias = Generator[Effect, Any, T]


@dataclass(frozen=True, slots=True)
class PutIf:
    """A store operation: put an item only if it still has the version that was read.

    Stores that know it say so by `supports_versions = True`; in others it is an error. Where the
    version is another one, the whole batch fails with VersionConflict.

    Attributes:
        put: What to put.
        if_version: The version that the item must have; 0: there must be no such item.
    """

    put: PutOp
    if_version: int


@dataclass(frozen=True, slots=True)
class ThreadSearch:
    """A store operation: find candidates for a query, and what stands around them.

    Stores that know it say so by `supports_threads = True`. Its result is `ThreadHits`. An item
    stands in a thread where its value has a `thread_id` (text) and a `position` (integer).

    Attributes:
        namespace_prefix: Where to search.
        query: What is embedded; "": no vectors.
        words: What is searched for by words.
        candidates: How many by meaning, and as many by words.
        around: How many positions before and behind each candidate come along.
    """

    namespace_prefix: tuple[str, ...]
    query: str
    words: str
    candidates: int = 50
    around: int = 4


class ThreadHit(NamedTuple):
    """An item with what speaks for it.

    Attributes:
        value: Of the item.
        item: Makes the item; it has no score.
        cosine: How near it is to the query, as the store measures it; None without a vector.
        found: Bit i is set where the item has word i of the query.
    """

    value: Mapping[str, Any]
    item: Callable[[], SearchItem]
    cosine: float | None
    found: int


class ThreadHits(NamedTuple):
    """What a ThreadSearch finds, in no order.

    Attributes:
        hits: Candidates and their neighbours.
        rarity: The inverse document frequency of word i of the query, in nats.
    """

    hits: Sequence[ThreadHit]
    rarity: Sequence[float]


StoreOp: TypeAlias = Op | PutIf | ThreadSearch


@dataclass(frozen=True, slots=True)
class StoreBatch:
    """Run store operations in one round trip; the answer is a list of results in their order."""

    store: BaseStore
    ops: Sequence[StoreOp]

    def run(self) -> Any:
        """Return `store.batch(ops)`."""
        return self.store.batch(self.ops)  # type: ignore[arg-type]

    async def arun(self) -> Any:
        """Return `await store.abatch(ops)`."""
        return await self.store.abatch(self.ops)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class AskModel:
    """Call a chat model (or a structured-output runnable over one); the answer is its output."""

    model: Runnable[Any, Any]
    messages: Sequence[BaseMessage]
    config: RunnableConfig

    def run(self) -> Any:
        """Return `model.invoke(messages)`."""
        return self.model.invoke(list(self.messages), self.config)

    async def arun(self) -> Any:
        """Return `await model.ainvoke(messages)`."""
        return await self.model.ainvoke(list(self.messages), self.config)


@dataclass(frozen=True, slots=True)
class EmbedTexts:
    """Embed texts as documents; the answer is one list of floats per text."""

    embeddings: Embeddings
    texts: Sequence[str]

    def run(self) -> Any:
        """Return `embed_documents(texts)`."""
        return self.embeddings.embed_documents(list(self.texts))

    async def arun(self) -> Any:
        """Return `await aembed_documents(texts)`."""
        return await self.embeddings.aembed_documents(list(self.texts))


@dataclass(frozen=True, slots=True)
class Rerank:
    """Have documents put into a better order; the answer is those that are kept, best first."""

    reranker: BaseDocumentCompressor
    documents: Sequence[Document]
    query: str

    def run(self) -> Any:
        """Return `compress_documents(documents, query)`."""
        return self.reranker.compress_documents(list(self.documents), self.query)

    async def arun(self) -> Any:
        """Return `await acompress_documents(documents, query)`."""
        return await self.reranker.acompress_documents(list(self.documents), self.query)


def run(body: Body[T]) -> T:
    """Drive a body to its end, blocking."""
    try:
        effect = next(body)
        while True:
            try:
                answer = effect.run()
            except Exception as error:  # noqa: BLE001 - handed to the body, which decides
                effect = body.throw(error)
            else:
                effect = body.send(answer)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]


async def arun(body: Body[T]) -> T:
    """Drive a body to its end on the running event loop."""
    try:
        effect = next(body)
        while True:
            try:
                answer = await effect.arun()
            except Exception as error:  # noqa: BLE001 - handed to the body, which decides
                effect = body.throw(error)
            else:
                effect = body.send(answer)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]


def stable_key(*parts: object) -> str:
    """Return a key for a store item that is the same whenever the same thing is written again.

    It has 40 hexadecimal digits: LangGraph takes 32 of them for the id of an interrupt.
    """
    return hashlib.sha256("\0".join(map(str, parts)).encode("utf-8", "replace")).hexdigest()[:40]


def write(store: BaseStore, puts: Sequence[PutOp]) -> Body[None]:
    """Write items in one batch, or in more where texts repeat.

    LangGraph's InMemoryStore fails on a batch that holds two equal texts to embed.
    """
    while puts:
        first: dict[Any, PutOp] = {}
        for put in puts:
            first.setdefault((put.value or {}).get("text", put.key), put)
        yield StoreBatch(store, list(first.values()))
        puts = [put for put in puts if put not in first.values()]
