"""Replays a conversation through a graph with every node of memkit, then asks about it.

Nothing is printed here: what happens comes out as events. What the events tell is read from
checkpoints, so that a run that was killed goes on, and a finished one can be shown again.
"""

import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from time import monotonic, sleep
from typing import Annotated, Any, TypeAlias

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, SystemMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.runtime import Runtime
from langgraph.store.base import BaseStore, PutOp, SearchItem
from typing_extensions import TypedDict

from memkit.budget import ContextBudget
from memkit.demo.conversations import Conversation, Line, Question, Session
from memkit.errors import ConfigError, MemkitError, StoreMissing
from memkit.facts import Fact, StalenessPolicy
from memkit.messages import TIMESTAMP, message_ids, text_of
from memkit.namespaces import escape_label
from memkit.nodes import (
    FactExtractor,
    MemoryRecall,
    RollingSummarizer,
    StaleFactCheck,
    TokenTrimmer,
    TurnRecorder,
)
from memkit.state import MemoryState, Recalled

RECALL_LIMIT = 10
DEFAULT_MAX_TOKENS = 800
POLICY = StalenessPolicy(
    default="90d", kinds={"name": "10y", "birthday": "10y", "allergy": "2y", "family": "2y"}
)

_LOCK = 7_236_517_001  # any number that nobody else uses as an advisory lock
_LOCK_TIMEOUT_S = 10.0
_PAGE = 500

Graph: TypeAlias = CompiledStateGraph[Any, Any, Any, Any]


class Turn(TypedDict):
    """Tokens of one model call: all that was ever said against what was sent."""

    id: str
    full: int
    sent: int


class KeptFact(TypedDict):
    """A fact as it stood at the end of a session; `freshness` is None unless it is current."""

    text: str
    kind: str
    status: str
    last_updated: str
    freshness: str | None


class Closing(TypedDict):
    """What a session left behind, written into its last checkpoint."""

    tokens: int
    known: int
    kept: list[KeptFact]
    superseded: list[KeptFact]
    stale: list[KeptFact]


class Answer(TypedDict):
    """The answer to one question, and what was recalled for it."""

    question: str
    text: str
    sent: int
    recalled: list[Recalled]


class SessionState(MemoryState):
    """memkit's state, and the figures that the demo shows."""

    turns: Annotated[list[Turn], operator.add]
    closing: Closing | None


class QuestionState(MemoryState):
    """memkit's state, and the answers that were given."""

    answers: Annotated[list[Answer], operator.add]


@dataclass(frozen=True, slots=True)
class Memory:
    """Where everything is kept."""

    saver: BaseCheckpointSaver[Any]
    store: BaseStore


@dataclass(frozen=True, slots=True)
class Options:
    """How to replay.

    Attributes:
        model: Summarizes, extracts and replies; None takes the model-free forms and the scripted
            replies.
        budget: Of every model call.
        policy: When a fact counts as stale.
    """

    model: BaseChatModel | None = None
    budget: ContextBudget = field(default_factory=lambda: ContextBudget(DEFAULT_MAX_TOKENS))
    policy: StalenessPolicy = POLICY


@dataclass(frozen=True, slots=True)
class SessionStarted:
    """A session begins, or goes on behind `lines_done` lines that are already there."""

    session: Session
    number: int
    lines_done: int


@dataclass(frozen=True, slots=True)
class LinesPlayed:
    """Lines went through the graph."""

    lines: int


@dataclass(frozen=True, slots=True)
class SessionEnded:
    """A session is complete; `covered` is the number of messages that the summary stands for."""

    session: Session
    number: int
    turns: list[Turn]
    summary: Mapping[str, Any] | None
    covered: int
    closing: Closing


@dataclass(frozen=True, slots=True)
class QuestionAnswered:
    """A question was asked; `hit` tells whether any of its evidence was recalled."""

    question: Question
    answer: Answer
    hit: bool


Event: TypeAlias = SessionStarted | LinesPlayed | SessionEnded | QuestionAnswered


# -- where it is kept --------------------------------------------------------------------------


@contextmanager
def opened(data_dir: Path) -> Iterator[Memory]:
    """Yield a checkpointer and a store in one embedded Postgres under `data_dir`.

    Raises:
        ConfigError: Another demo is at work there.
    """
    import psycopg
    from langgraph.checkpoint.postgres import PostgresSaver
    from psycopg.conninfo import make_conninfo

    from memkit import local
    from memkit.store import SemanticStore

    with ExitStack() as stack:
        # Commits return before they are on the disk. A process may be killed as it likes; if the
        # machine fails, checkpoints and memories go back together to one earlier moment.
        dsn = make_conninfo(
            stack.enter_context(local.postgres(data_dir)), options="-c synchronous_commit=off"
        )
        _lock(stack.enter_context(psycopg.connect(dsn, autocommit=True)), data_dir)
        saver = stack.enter_context(PostgresSaver.from_conn_string(dsn))
        saver.setup()
        embeddings = local.embeddings()
        store = stack.enter_context(SemanticStore.open(dsn, embed=embeddings, dims=384))
        store.setup()
        yield Memory(saver, store)


def _lock(connection: Any, data_dir: Path) -> None:
    """Keep a second demo out until the connection closes."""
    deadline = monotonic() + _LOCK_TIMEOUT_S
    # The connection of a process that was just killed may live for a moment.
    while not connection.execute("SELECT pg_try_advisory_lock(%s)", [_LOCK]).fetchone()[0]:
        if monotonic() > deadline:
            raise ConfigError(
                f"another memkit demo is using {data_dir}; wait for it, or give another --data-dir"
            )
        sleep(0.1)


def forget(conversation: Conversation, memory: Memory) -> None:
    """Delete the threads and the memories of one conversation, and nothing else."""
    for thread in _threads(conversation):
        memory.saver.delete_thread(thread)
    for kind in ("facts", "ledger_facts", "turns"):
        namespace = _namespace(conversation, kind)
        while items := memory.store.search(namespace, limit=_PAGE):
            memory.store.batch([PutOp(item.namespace, item.key, None) for item in items])


def _threads(conversation: Conversation) -> list[str]:
    threads = [_thread(conversation, session.id) for session in conversation.sessions]
    return [
        *threads,
        *dict.fromkeys(_question_thread(conversation, q) for q in conversation.questions),
    ]


def _thread(conversation: Conversation, name: str) -> str:
    return f"{conversation.id}/{name}"


def _question_thread(conversation: Conversation, question: Question) -> str:
    """Return one thread for all questions of a customer, and one each where they are a test."""
    return question.id if conversation.two_people else _thread(conversation, "questions")


def _config(conversation: Conversation, thread: str, **more: Any) -> RunnableConfig:
    return {"configurable": {"thread_id": thread, "user_id": conversation.id, **more}}


# -- the two graphs ----------------------------------------------------------------------------


def session_graph(conversation: Conversation, memory: Memory, options: Options) -> Graph:
    """Return the graph that a session runs through: every node of memkit around the reply."""
    replies = _replies(conversation)
    threads = {s.lines[-1].id: _thread(conversation, s.id) for s in conversation.sessions}

    def respond(state: SessionState, config: RunnableConfig) -> dict[str, Any]:
        said = state["messages"]
        earlier = config["configurable"]["earlier_tokens"]
        turn: Turn = {
            "id": said[-1].id or "",
            "full": earlier + options.budget.count(said),
            "sent": options.budget.count(state["llm_input_messages"]),
        }
        line = replies.get(turn["id"])
        if line is None:
            return {"turns": [turn]}
        reply = _message(line)
        if options.model is not None and line.by_assistant:
            text = text_of(options.model.invoke(state["llm_input_messages"], config))
            reply = _message(line, text)
        return {"messages": [reply], "turns": [turn]}

    def close(state: SessionState, *, runtime: Runtime[None]) -> dict[str, Any]:
        if runtime.store is None:
            raise StoreMissing
        facts = _facts(conversation, runtime.store)
        thread = threads[state["messages"][-1].id or ""]
        said = [m for m in state["messages"] if not isinstance(m, SystemMessage)]
        now = datetime.fromisoformat(said[-1].additional_kwargs[TIMESTAMP])
        return {"closing": _closing(facts, thread, now, options, options.budget.count(said))}

    def is_over(state: SessionState) -> str:
        return "close" if state["messages"][-1].id in threads else END

    builder = StateGraph(SessionState)
    before = _before_reply(builder, options, respond)
    builder.add_node("remember", FactExtractor(options.model))
    builder.add_node("record", TurnRecorder())
    builder.add_node("close", close)
    builder.add_edge(before, "remember")
    builder.add_edge("remember", "record")
    builder.add_conditional_edges("record", is_over, ["close", END])
    return builder.compile(checkpointer=memory.saver, store=memory.store)


def question_graph(memory: Memory, options: Options) -> Graph:
    """Return the graph that answers.

    It has no extractor and no recorder: asking must not change what is measured.
    """

    def respond(state: QuestionState, config: RunnableConfig) -> dict[str, Any]:
        asked = state["messages"][-1]
        view = state["llm_input_messages"]
        if options.model is None:
            text = quoted(state["recalled"])
        else:
            text = text_of(options.model.invoke(view, config))
        answer: Answer = {
            "question": asked.id or "",
            "text": text,
            "sent": options.budget.count(view),
            "recalled": state["recalled"],
        }
        return {"messages": [AIMessage(text, id=f"{asked.id}/answer")], "answers": [answer]}

    builder = StateGraph(QuestionState)
    builder.add_edge(_before_reply(builder, options, respond), END)
    return builder.compile(checkpointer=memory.saver, store=memory.store)


def _before_reply(
    builder: StateGraph[Any, Any, Any, Any], options: Options, respond: Callable[..., Any]
) -> str:
    """Wire START -> recall -> verify -> summarize -> trim -> respond; return the last node."""
    builder.add_node(
        "recall",
        MemoryRecall(limit=RECALL_LIMIT, sources=("facts", "turns"), policy=options.policy),
    )
    builder.add_node("verify", StaleFactCheck(options.policy))
    builder.add_node("summarize", RollingSummarizer(options.model, options.budget))
    builder.add_node("trim", TokenTrimmer(options.budget))
    builder.add_node("respond", respond)
    builder.add_edge(START, "recall")
    builder.add_edge("recall", "verify")
    builder.add_edge("verify", "summarize")
    builder.add_edge("summarize", "trim")
    builder.add_edge("trim", "respond")
    return "respond"


def _replies(conversation: Conversation) -> dict[str, Line]:
    """Return the line that follows each line that is sent in, by the id of the latter."""
    replies: dict[str, Line] = {}
    for session in conversation.sessions:
        position = 0
        while position < len(session.lines):
            count = _turn_length(conversation, session, position)
            if count == 2:
                replies[session.lines[position].id] = session.lines[position + 1]
            position += count
    return replies


def _turn_length(conversation: Conversation, session: Session, position: int) -> int:
    """Return 2 if the line at a position has a reply: anybody's, where both are people."""
    after = session.lines[position + 1 : position + 2]
    return 2 if after and (conversation.two_people or after[0].by_assistant) else 1


def _message(line: Line, text: str | None = None) -> AnyMessage:
    kind = AIMessage if line.by_assistant else HumanMessage
    return kind(
        text or line.text,
        id=line.id,
        name=line.speaker,
        additional_kwargs={TIMESTAMP: line.said_at},
    )


def quoted(recalled: list[Recalled]) -> str:
    """Return the answer of no model: the best memory, word for word."""
    if not recalled:
        return "I remember nothing about that."
    best = recalled[0]
    day = (best["last_updated"] or "an unknown day")[:10]
    return f"From {day}: {best['text']}"


def _namespace(conversation: Conversation, kind: str) -> tuple[str, ...]:
    return ("users", escape_label(conversation.id), kind)


def _facts(conversation: Conversation, store: BaseStore) -> list[Fact]:
    """Return every fact of a conversation, oldest first."""
    items: list[SearchItem] = []
    while page := store.search(_namespace(conversation, "facts"), limit=_PAGE, offset=len(items)):
        items.extend(page)
    facts = [Fact.from_value(item.key, item.value) for item in items]
    return sorted(facts, key=lambda fact: (str(fact.first_seen), fact.key))


def _closing(
    facts: list[Fact], thread: str, now: datetime, options: Options, tokens: int
) -> Closing:
    by_key = {fact.key: fact for fact in facts}
    current = [fact for fact in facts if fact.status == "current"]
    here = [fact for fact in facts if fact.source.get("thread_id") == thread]

    def shown(fact: Fact) -> KeptFact:
        freshness = options.policy.freshness(fact, now) if fact.status == "current" else None
        return {
            "text": fact.text,
            "kind": fact.kind,
            "status": fact.status,
            "last_updated": (fact.last_updated or now).isoformat(),
            "freshness": freshness,
        }

    return {
        "tokens": tokens,
        "known": len(current),
        "kept": [shown(fact) for fact in here],
        "superseded": [
            shown(by_key[fact.supersedes]) for fact in here if fact.supersedes in by_key
        ],
        "stale": [
            shown(fact) for fact in current if options.policy.freshness(fact, now) != "fresh"
        ],
    }


# -- the replay --------------------------------------------------------------------------------


def replay(conversation: Conversation, memory: Memory, options: Options) -> Iterator[Event]:
    """Play every session as a thread of its own, then ask the questions, and tell what happens.

    What is already in the checkpoints is told again without being played again.

    Raises:
        ConfigError: The checkpoints hold another conversation under these names.
    """
    graph = session_graph(conversation, memory, options)
    earlier = 0
    for number, session in enumerate(conversation.sessions, 1):
        for event in _play(graph, conversation, session, number, earlier):
            yield event
            if isinstance(event, SessionEnded):
                earlier += event.closing["tokens"]
    asking = question_graph(memory, options)
    for question in conversation.questions:
        yield _ask(asking, conversation, question)


def _play(
    graph: Graph, conversation: Conversation, session: Session, number: int, earlier: int
) -> Iterator[Event]:
    config = _config(conversation, _thread(conversation, session.id), earlier_tokens=earlier)
    _check(graph.get_state(config).values.get("messages", []), session, conversation)
    state = _finished_turn(graph, config)
    done = _lines_done(state)
    yield SessionStarted(session, number, done)
    if done:
        yield LinesPlayed(done)
    while done < len(session.lines):
        messages: list[AnyMessage] = [_message(session.lines[done])]
        if done == 0 and conversation.system:
            messages.insert(
                0,
                SystemMessage(
                    conversation.system, id=f"{_thread(conversation, session.id)}/system"
                ),
            )
        state = graph.invoke({"messages": messages}, config, durability="sync")
        before, done = done, _lines_done(state)
        if done == before:
            raise MemkitError(f"message {session.lines[done].id} did not become part of its thread")
        yield LinesPlayed(done - before)
    summary = state.get("summary")
    ids = message_ids([m for m in state["messages"] if not isinstance(m, SystemMessage)])
    yield SessionEnded(
        session=session,
        number=number,
        turns=state["turns"],
        summary=summary,
        covered=ids.index(summary["through_id"]) + 1 if summary else 0,
        closing=state["closing"],
    )


def _finished_turn(graph: Graph, config: RunnableConfig) -> dict[str, Any]:
    """Return the state of a thread, after ending the turn in which it was cut off, if it was."""
    snapshot = graph.get_state(config)
    # Not `next`: it leaves out tasks whose writes are saved but not yet part of a checkpoint, and
    # new input at such a checkpoint would discard them.
    if snapshot.tasks:
        return dict(graph.invoke(None, config, durability="sync"))
    return dict(snapshot.values)


def _lines_done(state: Mapping[str, Any]) -> int:
    return sum(not isinstance(m, SystemMessage) for m in state.get("messages", []))


def _check(messages: list[AnyMessage], session: Session, conversation: Conversation) -> None:
    """Refuse to go on with a thread that does not hold the beginning of this session."""
    said = [m for m in messages if not isinstance(m, SystemMessage)]
    for message, line in zip(said, session.lines, strict=False):
        # A reply may be a model's own.
        same_text = line.by_assistant or message.content == line.text
        if message.id != line.id or not same_text:
            raise ConfigError(
                f"the data directory holds another conversation under the name "
                f"{conversation.id!r} (message {message.id} differs); start over with --fresh, "
                "or give another --data-dir"
            )


def _ask(graph: Graph, conversation: Conversation, question: Question) -> QuestionAnswered:
    config = _config(conversation, _question_thread(conversation, question))
    state = _finished_turn(graph, config)
    answers = {answer["question"]: answer for answer in state.get("answers", [])}
    if question.id not in answers:
        asked = HumanMessage(
            question.text,
            id=question.id,
            additional_kwargs={TIMESTAMP: conversation.asked_at},
        )
        state = graph.invoke({"messages": [asked]}, config, durability="sync")
        answers = {answer["question"]: answer for answer in state["answers"]}
    answer = answers[question.id]
    found = {i for item in answer["recalled"] for i in item["message_ids"]}
    return QuestionAnswered(question, answer, not found.isdisjoint(question.evidence))
