"""The data of the store benchmark: items of many tenants about the same topics, and questions.

Everything is drawn from a seed. A topic is a direction and some words; an item is a sentence with
words of its topic, and a vector near its direction. Tenants share the topics, as users of one
product do, and each leans to a side of its own in each of its topics, by three tenths of what the
topic weighs: much of what is nearest to a question in all the data belongs to somebody else. How
much of it decides what an index over all tenants can find for one of them.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from langchain_core.embeddings import Embeddings
from langgraph.store.base import PutOp
from numpy.typing import NDArray

Matrix: TypeAlias = NDArray[np.float32]

ROOT = "mem"
FIELD = "text"
FILTER_FIELD = "kind"
KINDS = {"said": 0.6, "did": 0.28, "likes": 0.1, "must": 0.02}
RARE = "must"  # what is filtered for

# By weight, a topic being 1: two items on a topic have a cosine of .63 in one tenant, .58 in two.
_LEANING, _SPREAD = 0.3, 0.8
_TOPIC_WORDS, _COMMON_WORDS = 30, 300
_SYLLABLES = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]


@dataclass(frozen=True, slots=True)
class Scale:
    """How much data there is: per size class the number of tenants and the items of each.

    Attributes:
        small, medium, large: (tenants, items per tenant).
        dims: The length of the vectors.
        topics: How many topics all tenants share.
        spare: Items that are not loaded, but put while times are taken.
    """

    small: tuple[int, int]
    medium: tuple[int, int]
    large: tuple[int, int]
    dims: int = 384
    topics: int = 200
    spare: int = 12_000

    @property
    def items(self) -> int:
        """The number of items that are loaded."""
        return sum(tenants * items for tenants, items in (self.small, self.medium, self.large))


FULL = Scale((1_000, 100), (10, 1_000), (1, 50_000))
QUICK = Scale((100, 100), (1, 1_000), (1, 5_000), spare=5_000)


@dataclass(frozen=True, slots=True)
class Question:
    """A question to a tenant.

    Attributes:
        prefix: Where to search.
        text: What is asked; its vector is `vector`.
        rows: The items below `prefix`.
    """

    prefix: tuple[str, ...]
    text: str
    vector: Matrix
    rows: NDArray[np.int64]


class Items:
    """The items, drawn once; item number n has the key "n", whoever its tenant is.

    Attributes:
        vectors: One normalised vector per item, spare ones included, shape (items, dims).
        texts: Their texts; no two are the same.
        kinds: What a filter is about, per item.
        tenants: Per size class the names of its tenants.
    """

    def __init__(self, scale: Scale, seed: int) -> None:
        self.scale = scale
        self._rng = np.random.default_rng(seed)
        self._words = _Words(scale.topics, self._rng)
        self.tenants: dict[str, list[str]] = {}
        self._rows: dict[str, NDArray[np.int64]] = {}
        owners: list[str] = []
        for size in ("small", "medium", "large"):
            count, each = getattr(scale, size)
            self.tenants[size] = [f"{size}{n}" for n in range(count)]
            for name in self.tenants[size]:
                self._rows[name] = np.arange(len(owners), len(owners) + each)
                owners += [name] * each
        self._owners = owners
        self._topic_of, self._directions = self._draw_directions()
        self._sides = self._draw_sides()
        self.vectors = self._near(self._sides)
        self.texts = self._words.sentences(self._topic_of[self._sides], 6, 6)
        drawn = self._rng.choice(len(KINDS), len(self.texts), p=list(KINDS.values()))
        self.kinds = [list(KINDS)[n] for n in drawn]

    def _draw_directions(self) -> tuple[NDArray[np.int64], Matrix]:
        """Return all directions that items have, and the topic of each.

        First the topics themselves, then per tenant its side of each of its topics: few when it is
        small, all when it is large.
        """
        scale = self.scale
        self._own: dict[str, NDArray[np.int64]] = {}
        topics = [np.arange(scale.topics)]
        start = scale.topics
        for name, rows in self._rows.items():
            count = min(scale.topics, max(4, len(rows) // 12))
            self._own[name] = np.arange(start, start + count)
            topics.append(self._rng.choice(scale.topics, count, replace=False))
            start += count
        topic_of = np.concatenate(topics)
        directions = _unit(self._rng.standard_normal((scale.topics, scale.dims)))[topic_of]
        leaning = _unit(self._rng.standard_normal((start, scale.dims)))
        directions[scale.topics :] += _LEANING * leaning[scale.topics :]
        return topic_of, directions

    def _draw_sides(self) -> NDArray[np.int64]:
        """Return the direction of each item; spare ones, which are nobody's yet, have a topic's."""
        sides = [self._rng.choice(self._own[name], len(rows)) for name, rows in self._rows.items()]
        sides.append(self._rng.integers(0, self.scale.topics, self.scale.spare))
        return np.concatenate(sides)

    def _near(self, sides: NDArray[np.int64]) -> Matrix:
        """Return one vector per direction given, near it."""
        found = np.empty((len(sides), self.scale.dims), dtype=np.float32)
        step = 10_000  # noise in double precision for all at once would take half a gigabyte
        for start in range(0, len(sides), step):
            part = sides[start : start + step]
            noise = self._rng.standard_normal((len(part), self.scale.dims))
            noise *= _SPREAD / np.sqrt(self.scale.dims)
            found[start : start + step] = _unit(self._directions[part] + noise)
        return found

    def loaded(self, batch: int, ttl: float) -> Iterator[list[PutOp]]:
        """Give the items to load, in an order in which all tenants grow side by side."""
        order = self._rng.permutation(self.scale.items)
        for start in range(0, len(order), batch):
            yield [self.put(int(row), self._owners[row], ttl) for row in order[start:][:batch]]

    def spares(self) -> Iterator[int]:
        """Give the numbers of the items that are not loaded."""
        return iter(range(self.scale.items, len(self.texts)))

    def put(self, row: int, tenant: str, ttl: float) -> PutOp:
        """Return the operation that puts item `row` for a tenant."""
        value = {FIELD: self.texts[row], FILTER_FIELD: self.kinds[row], "number": row % 1_000}
        return PutOp(self.namespace(row, tenant), str(row), value, None, ttl)

    def namespace(self, row: int, tenant: str) -> tuple[str, ...]:
        """Return where an item stands: a tenant has two namespaces, so that searches descend."""
        return (ROOT, tenant, "facts" if row % 2 else "turns")

    def address(self, row: int) -> tuple[tuple[str, ...], str]:
        """Return namespace and key of a loaded item."""
        return self.namespace(row, self._owners[row]), str(row)

    def draw(self, among: Sequence[str], count: int) -> list[str]:
        """Return `count` names drawn from some, all of them before any comes again."""
        rounds = -(-count // len(among))
        mixed = itertools.chain.from_iterable(
            self._rng.permutation(len(among)) for _ in range(rounds)
        )
        return [among[int(n)] for n in itertools.islice(mixed, count)]

    def rows_drawn(self, count: int) -> list[int]:
        """Return loaded items drawn at random."""
        return [int(row) for row in self._rng.integers(0, self.scale.items, count)]

    def questions(self, size: str, count: int) -> list[Question]:
        """Return questions to tenants of a size class; "tree" asks all of them at once.

        A question is what the tenant could have said itself, but shorter.
        """
        scopes: list[tuple[tuple[str, ...], NDArray[np.int64]]]
        if size == "tree":
            scopes = [((ROOT,), np.arange(self.scale.items))] * count
        else:
            scopes = [
                ((ROOT, name), self._rows[name]) for name in self.draw(self.tenants[size], count)
            ]
        sides = np.array([self._sides[self._rng.choice(rows)] for _, rows in scopes])
        vectors = self._near(sides)
        texts = self._words.sentences(self._topic_of[sides], 4, 3)
        return [
            Question(prefix, text, vector, rows)
            for (prefix, rows), text, vector in zip(scopes, texts, vectors, strict=True)
        ]

    def nearest(self, question: Question, limit: int, kind: str | None = None) -> set[str]:
        """Return the keys of the items that are nearest by cosine, found by looking at all."""
        rows = question.rows
        if kind is not None:
            rows = np.array([row for row in rows if self.kinds[row] == kind], dtype=np.int64)
        near = self.vectors[rows] @ question.vector
        return {str(row) for row in rows[np.argsort(-near)[:limit]]}


class Lookup(Embeddings):
    """Embeddings that were made beforehand: a look into a table, the same for every store."""

    def __init__(self, items: Items) -> None:
        self._vectors: dict[str, Matrix] = dict(zip(items.texts, items.vectors, strict=True))

    def learn(self, questions: Sequence[Question]) -> None:
        """Take in the vectors of questions."""
        self._vectors |= {question.text: question.vector for question in questions}

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return the vectors of texts."""
        return [self.embed_query(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of a text."""
        found: list[float] = self._vectors[text].tolist()
        return found

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return the vectors of texts, without the thread that LangChain would start."""
        return self.embed_documents(texts)

    async def aembed_query(self, text: str) -> list[float]:
        """Return the vector of a text, without the thread that LangChain would start."""
        return self.embed_query(text)


class _Words:
    """Words of topics, and words that all topics share; made of syllables, no language's."""

    def __init__(self, topics: int, rng: np.random.Generator) -> None:
        self._rng = rng
        self._said: set[str] = set()
        count = _COMMON_WORDS + topics * _TOPIC_WORDS
        words: dict[str, None] = {}
        while len(words) < count:
            drawn = rng.integers(0, len(_SYLLABLES), (count, 3))
            words |= dict.fromkeys("".join(_SYLLABLES[n] for n in three) for three in drawn)
        known = list(words)
        self._common = known[:_COMMON_WORDS]
        self._of_topic = [
            known[start : start + _TOPIC_WORDS]
            for start in range(_COMMON_WORDS, count, _TOPIC_WORDS)
        ]

    def sentences(self, topics: NDArray[np.int64], own: int, common: int) -> list[str]:
        """Return a sentence per topic given; no two are the same, in all calls."""
        found = []
        for topic in topics:
            vocabulary = self._of_topic[topic]
            while True:
                words = [vocabulary[n] for n in self._rng.integers(0, _TOPIC_WORDS, own)]
                words += [self._common[n] for n in self._rng.integers(0, _COMMON_WORDS, common)]
                sentence = " ".join(words)
                if sentence not in self._said:
                    break
            self._said.add(sentence)
            found.append(sentence)
        return found


def _unit(vectors: NDArray[Any]) -> Matrix:
    found: Matrix = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return found
