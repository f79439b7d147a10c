"""How good a ranking of turns is, whichever system gave it. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

from benchmarks.intervals import interval

LIMIT = 20
"""The turns each system is asked for."""
CUTS = (5, 10, 20)
"""The numbers of turns that are looked at."""

Figures = dict[str, float]


class Found(NamedTuple):
    """An item that a system returned.

    Attributes:
        message_ids: The turns that it is, or cites.
        text: What it would show a model.
    """

    message_ids: tuple[str, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Judged:
    """One question, judged.

    Attributes:
        ranks: Per turn of the evidence its place among the returned turns, from 1; None where it
            was not returned.
        tokens: The tokens of the items that begin among the first turn, the first two, and so on;
            LIMIT of them.
        category: That of the question.
    """

    ranks: tuple[int | None, ...]
    tokens: tuple[int, ...]
    category: int | str | None = None

    def hit(self, k: int) -> bool:
        """Return whether any evidence is among the first k turns."""
        return any(rank is not None and rank <= k for rank in self.ranks)

    def recall(self, k: int) -> float:
        """Return the share of the evidence among the first k turns."""
        return fmean(rank is not None and rank <= k for rank in self.ranks)

    @property
    def reciprocal_rank(self) -> float:
        """One by the place of the first evidence; 0 without any among the first LIMIT turns."""
        best = min((rank for rank in self.ranks if rank is not None), default=LIMIT + 1)
        return 1 / best if best <= LIMIT else 0.0


def judged(
    found: Sequence[Found],
    sizes: Sequence[int],
    evidence: Sequence[str],
    category: int | str | None = None,
) -> Judged:
    """Judge what a system returned for a question.

    An item takes one place per turn that it is or cites, whether or not that turn was returned
    before, and one place if it cites none.

    Args:
        found: Best first.
        sizes: Per item its tokens.
        evidence: The turns that hold the answer; at least one.
        category: That of the question.
    """
    rank_of: dict[str, int] = {}
    tokens = [0] * LIMIT
    place = 1
    for item, size in zip(found, sizes, strict=True):
        for k in range(place, LIMIT + 1):
            tokens[k - 1] += size
        for n, turn in enumerate(item.message_ids):
            rank_of.setdefault(turn, place + n)
        place += max(1, len(item.message_ids))
    return Judged(tuple(rank_of.get(turn) for turn in evidence), tuple(tokens), category)


def metrics(questions: Sequence[Judged], seed: int) -> Figures:
    """Return the figures of one system over all questions, and over those of each category."""
    figures: Figures = {"questions": len(questions)}
    for k in CUTS:
        hits = [float(one.hit(k)) for one in questions]
        figures[f"hit@{k}"] = fmean(hits)
        figures[f"hit@{k}_low"], figures[f"hit@{k}_high"] = interval(hits, seed)
    figures |= {f"recall@{k}": fmean(one.recall(k) for one in questions) for k in CUTS}
    reciprocal = [one.reciprocal_rank for one in questions]
    figures["mrr"] = fmean(reciprocal)
    figures["mrr_low"], figures["mrr_high"] = interval(reciprocal, seed)
    figures |= {f"tokens@{k}": tokens_at(questions, k) for k in CUTS}
    for category, part in by_category(questions).items():
        figures |= {f"category_{category}_hit@{k}": hit_rate(part, k) for k in CUTS}
        figures[f"category_{category}_recall@10"] = fmean(one.recall(10) for one in part)
        figures[f"category_{category}_mrr"] = fmean(one.reciprocal_rank for one in part)
    return figures


def by_category(questions: Sequence[Judged]) -> Mapping[str, list[Judged]]:
    """Return the questions of each category in the order of their names."""
    parts: dict[str, list[Judged]] = {}
    for one in questions:
        if one.category is not None:
            parts.setdefault(str(one.category), []).append(one)
    return dict(sorted(parts.items()))


def hit_rate(questions: Sequence[Judged], k: int) -> float:
    """Return the share of questions with evidence among the first k turns."""
    return fmean(one.hit(k) for one in questions)


def tokens_at(questions: Sequence[Judged], k: int) -> float:
    """Return the mean tokens of the first k turns."""
    return fmean(one.tokens[k - 1] for one in questions)


def difference(
    ours: Sequence[Judged], theirs: Sequence[Judged], k: int, seed: int
) -> tuple[float, float, float]:
    """Return by how much our hit rate is higher over the same questions, and its interval."""
    gains = [float(a.hit(k)) - float(b.hit(k)) for a, b in zip(ours, theirs, strict=True)]
    return fmean(gains), *interval(gains, seed)
