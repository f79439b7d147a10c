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
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar

from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.embeddings import Embeddings
from langchain_core.messages import BaseMessage
from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.store.base import BaseStore, Op, PutOp

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
    """A store operation: find items by their words and meaning, and by those of what is around.

    Stores that know it say so by `supports_threads = True`. An item stands in a thread where its
    value has a `thread_id` (text) and a `position` (integer). The result are items as of a search,
    best first; a score is in nats, the unit of an inverse document frequency:

    - `words` times the sum of the rarities of the words of `terms` that the item has, or, less by
      `decay` with each item of distance, one of the `reach` items on either side of it;
    - `meaning` times the mean of how near the item is to `query` (weight `near[0]`), those next to
      it (`near[1]`) and so on, in standard deviations above what was looked at.

    Attributes:
        namespace_prefix: Where to search.
        query: What is embedded; "": no vectors.
        terms: What is searched for by words.
        limit: How many items to return.
        candidates: In a scope with indexes: how many are looked at by meaning, and as many by
            words, with what is around each.
    """

    namespace_prefix: tuple[str, ...]
    query: str
    terms: str
    limit: int = 10
    candidates: int = 50
    words: float = 1.0
    reach: int = 4
    decay: float = 0.8
    meaning: float = 2.0
    near: tuple[float, ...] = (1.0, 2 / 3, 1 / 3)

    @property
    def around(self) -> int:
        """How many items on each side of an item count for it."""
        return max(self.reach, len(self.near) - 1)


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
        repeated = [
            put
            for put in puts
            if first.setdefault((put.value or {}).get("text", put.key), put) is not put
        ]
        yield StoreBatch(store, list(first.values()))
        puts = repeated
