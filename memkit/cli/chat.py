"""`memkit chat`: talk to a model that remembers, and watch what it is shown and what it keeps."""

import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from memkit.cli.options import BaseUrl, Dsn, Gguf, Json, ModelName, NoModel
from memkit.cli.output import emit, say
from memkit.cli.places import chosen_model, database, embeddings_of, postgres_saver
from memkit.cli.trouble import expected_errors
from memkit.terminal import visible

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel
    from langgraph.graph.state import CompiledStateGraph

    from memkit.budget import ContextBudget
    from memkit.factbook import FactBook

_EXIT_FAILED = 1
_DEFAULT_MAX_TOKENS = 4_000
_LATEST = 50  # facts that are looked at for changes
_SHOWN = 8
_REPLY = "respond"
_HELP = """/facts    what is known of you
/context  the last prompt, word for word
/new      a new thread, in which only memory connects to this one
/quit     the end; so does Ctrl-D"""


def chat(
    user: Annotated[str, typer.Option(metavar="ID", help="whose memory")] = "you",
    thread: Annotated[
        str | None, typer.Option(metavar="ID", help="a thread to go on with; default: a new one")
    ] = None,
    dsn: Dsn = None,
    embeddings: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help='what the vectors of --dsn are made with: "local", or a name for LangChain\'s '
            "init_embeddings; default: local",
        ),
    ] = None,
    model: ModelName = None,
    base_url: BaseUrl = None,
    gguf: Gguf = None,
    no_model: NoModel = False,
    max_tokens: Annotated[
        int, typer.Option(metavar="N", min=1, help="the budget of a model call")
    ] = _DEFAULT_MAX_TOKENS,
    json: Json = False,
) -> int:
    """Talk to a model with memory on, and see context and facts change with every turn.

    Without a model the best memory is the answer. Lines may also come from a pipe, one turn each;
    with --json each turn is told as one line. /help tells what else can be typed.
    """
    from memkit.budget import ContextBudget
    from memkit.factbook import FactBook
    from memkit.store import SemanticStore

    budget = ContextBudget(max_tokens)
    chosen = chosen_model(model, base_url, gguf, none=no_model)
    with ExitStack() as stack:
        address = stack.enter_context(database(dsn))
        vectors = embeddings_of(embeddings or "local")
        store = stack.enter_context(SemanticStore.open(address, embed=vectors))
        if dsn is None:
            store.setup()
        saver = stack.enter_context(postgres_saver(address, setup=True))
        graph = _graph(chosen, budget).compile(checkpointer=saver, store=store)
        talk = Talk(graph, FactBook.of_user(store, user), user, budget)
        talk.thread = thread or talk.thread
        if not json:
            name = getattr(chosen, "model_name", type(chosen).__name__)
            say(f"{'no model' if chosen is None else name}; thread {talk.thread}; /help helps")
        failed = False
        for line in _lines():
            if line.startswith("/"):
                if line.split()[0] in {"/quit", "/exit"}:
                    break
                _command(line, talk)
                continue
            failed = not _told(talk, line, as_json=json)
    return _EXIT_FAILED if failed else 0


class Turn(NamedTuple):
    """What one turn did.

    Attributes:
        reply: What was answered.
        tokens: Of the prompt.
        cut_turns: Turns that the prompt dropped in this turn.
        summary: Tokens of the summary; 0 if there is none.
        recalled: The memories that were found.
        facts: What became of facts: "+" is new, "-" no longer holds, "=" was confirmed.
    """

    reply: str
    tokens: int
    cut_turns: int
    summary: int
    recalled: list[Mapping[str, Any]]
    facts: list[tuple[str, str]]


class Talk:
    """One person's conversation: a thread, and the memory behind it."""

    def __init__(
        self,
        graph: "CompiledStateGraph[Any, Any, Any, Any]",
        book: "FactBook",
        user: str,
        budget: "ContextBudget",
    ) -> None:
        self.graph = graph
        self.book = book
        self.user = user
        self.max_tokens = budget.max_tokens
        self.thread = _new_thread()

    @property
    def config(self) -> Any:
        """The config of this thread."""
        return {"configurable": {"thread_id": self.thread, "user_id": self.user}}

    def turn(self, text: str) -> Iterator[str | Turn]:
        """Yield the reply piece by piece, and at the end what the turn did."""
        from langchain_core.messages import HumanMessage

        before = self._facts()
        reply, trimmed = "", dict[str, Any]()
        told: Iterator[Any] = self.graph.stream(
            {"messages": [HumanMessage(text)]}, self.config, stream_mode=["messages", "custom"]
        )
        for mode, part in told:
            if mode == "custom" and part.get("memkit") == "trim":
                trimmed = part
            elif mode == "messages" and part[1].get("langgraph_node") == _REPLY:
                piece = part[0].text
                reply += piece
                yield piece
        state = self.graph.get_state(self.config).values
        after = self._facts()
        yield Turn(
            reply=reply,
            tokens=trimmed.get("tokens", 0),
            cut_turns=trimmed.get("cut_turns", 0),
            summary=(state.get("summary") or {}).get("tokens", 0),
            recalled=state.get("recalled") or [],
            facts=_changes(before, after),
        )

    def _facts(self) -> dict[str, Any]:
        latest = self.book.store.search(self.book.namespace, limit=_LATEST)
        return {fact.key: fact for fact in self.book.facts_of(latest)}


def _changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, str]]:
    changes = []
    for key, fact in after.items():
        was = before.get(key)
        if was is None and fact.status == "current":
            changes.append(("+", fact.text))
        elif fact.status != "current" and (was is None or was.status == "current"):
            changes.append(("-", fact.text))
        elif was is not None and was.last_confirmed != fact.last_confirmed:
            changes.append(("=", fact.text))
    return sorted(changes, key=lambda change: ("-+=".index(change[0]), change[1]))


def _graph(model: "BaseChatModel | None", budget: "ContextBudget") -> Any:
    from langchain_core.messages import AIMessage
    from langgraph.graph import END, START, StateGraph

    from memkit.demo.replay import quoted
    from memkit.state import MemoryState
    from memkit.wiring import add_memory

    def respond(state: MemoryState) -> dict[str, Any]:
        if model is None:
            return {"messages": [AIMessage(quoted(state["recalled"]))]}
        return {"messages": [model.invoke(state["messages"])]}

    builder = StateGraph(MemoryState)
    builder.add_node(_REPLY, respond)
    builder.add_edge(START, _REPLY)
    builder.add_edge(_REPLY, END)
    return add_memory(
        builder, around=_REPLY, budget=budget, model=model, record_turns=model is not None
    )


def _new_thread() -> str:
    return f"chat-{uuid.uuid4().hex[:8]}"


def _lines() -> Iterator[str]:
    """Yield what is typed or piped in, without empty lines."""
    is_typed = sys.stdin.isatty()
    if is_typed:
        with suppress(ImportError):
            import readline  # noqa: F401 - lines can be edited and come back
    while True:
        try:
            line = input("> ") if is_typed else sys.stdin.readline()
        except EOFError:
            return
        if not is_typed and not line:
            return
        if line.strip():
            yield line.strip()


def _told(talk: Talk, text: str, *, as_json: bool) -> bool:
    """Say a line, tell what comes of it, and return whether it was answered."""
    try:
        for part in talk.turn(text):
            if isinstance(part, Turn):
                _show(part, talk, as_json=as_json)
            elif not as_json:
                print(visible(part, lines=True), end="", flush=True)
    except expected_errors() as error:
        detail = " ".join(str(error).split()) or type(error).__name__
        say(f"\nmemkit: error: {detail}", error=True)
        return False
    return True


def _show(turn: Turn, talk: Talk, *, as_json: bool) -> None:
    if as_json:
        facts = [{"change": change, "text": text} for change, text in turn.facts]
        emit({**turn._asdict(), "facts": facts, "thread_id": talk.thread})
        return
    print()
    cut = f", {turn.cut_turns} turns cut" if turn.cut_turns else ""
    summary = f", summary {turn.summary:,}" if turn.summary else ""
    _aside(f"context   {turn.tokens:,} of {talk.max_tokens:,} tokens{summary}{cut}")
    for memory in turn.recalled[:_SHOWN]:
        day = (memory["last_updated"] or "")[:10]
        age = memory["freshness"] if memory["source"] == "facts" else "said"
        _aside(f"recalled  {day} {age:<7} {' '.join(memory['text'].split())}")
    for change, text in turn.facts[:_SHOWN]:
        _aside(f"facts     {change} {text}")


def _aside(text: str) -> None:
    """Print a line that nobody said; dim on a terminal."""
    from rich.console import Console
    from rich.text import Text

    console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
    console.print(Text(f"  {visible(text)}", style="dim"))


def _command(line: str, talk: Talk) -> None:
    word = line.split(maxsplit=1)[0]
    if word == "/new":
        talk.thread = _new_thread()
        say(f"thread {talk.thread}")
    elif word == "/facts":
        facts = talk.book.all(status="current")
        for fact in facts[:_LATEST]:
            _aside(fact.text)
        if not facts:
            say("no facts")
        elif len(facts) > _LATEST:
            say(f"... and {len(facts) - _LATEST} more: memkit facts list")
    elif word == "/context":
        view = talk.graph.get_state(talk.config).values.get("llm_input_messages") or []
        for message in view:
            _aside(f"[{message.type}]")
            say(message.text)
        if not view:
            say("nothing was asked in this thread yet")
    else:
        say(_HELP)
