"""Tools for an agent that manages its memory itself: search_memory, remember and forget.

    create_agent(model, tools=[search_memory, remember, forget], store=store)

Whose memory it is comes from the config or the runtime context of the run, as for the nodes. What
the model writes into the arguments chooses among that person's memories, never the person.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

from langchain_core.messages import HumanMessage
from langchain_core.tools import BaseTool, StructuredTool
from langgraph.prebuilt import ToolRuntime

from memkit.effects import Body, arun, run
from memkit.errors import ConfigError
from memkit.factbook import FactBook
from memkit.facts import Change, Fact, StalenessPolicy
from memkit.facts.ask import Said
from memkit.facts.dates import dated
from memkit.facts.proposals import Origin, from_statements
from memkit.messages import id_of, now_of
from memkit.namespaces import FACTS_NAMESPACE, TURNS_NAMESPACE
from memkit.nodes import MemoryRecall
from memkit.nodes.base import Visit, said_by_person, utc_now
from memkit.secrets import find_secrets
from memkit.state import Recalled, Source
from memkit.tokens import as_messages

__all__ = ["forget", "memory_tools", "remember", "search_memory"]

_LONGEST = 1_000  # characters of a memory; what is longer is a document
_LONGEST_QUERY = 2_000
_SHOWN = ("key", "text", "kind", "last_confirmed", "freshness")

_SEARCH = """Search what is remembered of this user from earlier conversations.

Use it before you ask the user for something they may have told before.

Args:
    query: What to look for, in words.

Returns a JSON list of memories, best first. A memory that is "stale" was not confirmed for long:
ask before you rely on it."""
_REMEMBER = """Remember one fact about this user for later conversations.

Write one fact in the user's own voice and with all it needs to be understood alone, "I live in
Bonn." or "My sister Ada is allergic to nuts.", only what the user has said, and no passwords, keys
or card numbers.

Args:
    text: The fact.
    replaces: The key of a memory that this fact corrects, as search_memory shows it."""
_FORGET = """Forget a memory of this user, because they ask for it or because it is wrong.

Args:
    key: The key of the memory, as search_memory shows it."""


def memory_tools(
    *,
    namespace: Sequence[str] = FACTS_NAMESPACE,
    turns_namespace: Sequence[str] = TURNS_NAMESPACE,
    sources: Sequence[Source] = ("facts",),
    limit: int = 8,
    policy: StalenessPolicy | None = None,
    messages_key: str = "messages",
) -> list[BaseTool]:
    """Return search_memory, remember and forget, set otherwise than the three of this module.

    Args:
        namespace: Where facts are; "{name}" is filled in as for the nodes.
        turns_namespace: Where TurnRecorder keeps turns.
        sources: What search_memory searches: "facts", "turns", or both.
        limit: The most memories of a search.
        policy: Says which facts are stale.
        messages_key: The state key of the messages, which a new fact is said to be from.

    Raises:
        ConfigError: An argument makes no sense; while the tool runs: the run does not say whose
            memory it is.
        StoreMissing: While the tool runs: the graph has no store.
        StoreError: While the tool runs: the store failed, and nothing was changed. Arguments that
            cannot be used are no errors, but words for the model.
    """
    recall = MemoryRecall(
        namespace=namespace,
        turns_namespace=turns_namespace,
        sources=sources,
        limit=limit,
        policy=policy,
    )
    template = recall.namespaces["facts"]

    def book_of(visit: Visit) -> FactBook:
        return FactBook(visit.store, visit.namespace(template))

    def search(visit: Visit, query: str) -> Body[str]:
        if not query.strip():
            return "say what to look for"
        asked = {recall.messages_key: [HumanMessage(query[:_LONGEST_QUERY])]}
        update = yield from recall.body(Visit(asked, visit.config, visit.runtime, visit.node))
        found: list[Recalled] = update[recall.output_key]
        if not found:
            return "nothing is remembered about that"
        shown = [{name: one.get(name) for name in _SHOWN} for one in found]
        return json.dumps(shown, ensure_ascii=False)

    def keep(visit: Visit, call_id: str, text: str, replaces: str | None) -> Body[str]:
        text = text.strip()
        if not text or len(text) > _LONGEST:
            return f"not remembered: a fact has 1 to {_LONGEST} characters, this has {len(text)}"
        if secrets := find_secrets(text):
            return f"not remembered: a {secrets[0].kind} is never kept; leave it out"
        book = book_of(visit)
        messages = as_messages(visit.read(messages_key) or [])
        at = now_of(messages, utc_now())
        source = _source(visit, messages)
        if replaces:
            [known] = yield from book.getting([replaces])
            missing = f"not remembered: there is no current memory with the key {replaces!r:.100}"
            if known is None or known.status != "current":
                return missing
            try:
                new = yield from book.correcting(replaces, text, at, source)
            except ConfigError:  # another call at the same moment replaced it, or took it back
                return missing
            return _told(new, f"remembered, in place of {known.text!r}")
        # The name of the call: a second run of the same call writes nothing new.
        said = Said(f"{visit.node} {call_id}", HumanMessage(text), at=at, citable=True)
        origin = Origin(visit.thread_id, visit.checkpoint_id)
        facts = from_statements([said], origin).facts
        if not facts:
            facts = [origin.fact([said], 0, text=dated(text, at), kind="statement")]
        stated = [fact.changed(source=source) for fact in facts]
        changes = yield from book.stating(stated, at)
        return "; ".join(map(_became, changes)) or "that is remembered already"

    def drop(visit: Visit, key: str) -> Body[str]:
        book = book_of(visit)
        known = (yield from book.getting([key]))[0] if key else None
        if known is None:
            return f"there is no memory with the key {key!r:.100}; search_memory shows the keys"
        if known.status == "retracted":
            return "that is forgotten already"
        yield from book.retracting([key], book.clock())
        return f"forgotten: {known.text!r}"

    def search_memory(query: str, runtime: ToolRuntime) -> str:
        return run(search(_visit(runtime, "search_memory"), query))

    async def asearch_memory(query: str, runtime: ToolRuntime) -> str:
        return await arun(search(_visit(runtime, "search_memory"), query))

    def remember(text: str, runtime: ToolRuntime, replaces: str | None = None) -> str:
        visit = _visit(runtime, "remember")
        return run(keep(visit, str(runtime.tool_call_id), text, replaces))

    async def aremember(text: str, runtime: ToolRuntime, replaces: str | None = None) -> str:
        visit = _visit(runtime, "remember")
        return await arun(keep(visit, str(runtime.tool_call_id), text, replaces))

    def forget(key: str, runtime: ToolRuntime) -> str:
        return run(drop(_visit(runtime, "forget"), key))

    async def aforget(key: str, runtime: ToolRuntime) -> str:
        return await arun(drop(_visit(runtime, "forget"), key))

    return [
        _tool(search_memory, asearch_memory, _SEARCH),
        _tool(remember, aremember, _REMEMBER),
        _tool(forget, aforget, _FORGET),
    ]


def _tool(blocking: Callable[..., Any], on_loop: Callable[..., Any], description: str) -> BaseTool:
    return StructuredTool.from_function(
        blocking, on_loop, name=blocking.__name__, description=description, parse_docstring=False
    )


def _visit(runtime: ToolRuntime, name: str) -> Visit:
    own: Any = runtime  # it has what a node's runtime has
    return Visit(runtime.state, runtime.config, own, name)


def _source(visit: Visit, messages: Sequence[Any]) -> dict[str, Any]:
    """Return where a fact was said: in the latest message of the person."""
    last = [i for i, message in enumerate(messages) if said_by_person(message)][-1:]
    return {
        "thread_id": visit.thread_id,
        "message_ids": [id_of(messages, i) for i in last],
        "checkpoint_id": visit.checkpoint_id,
    }


def _became(change: Change) -> str:
    done = {
        "add": "remembered",
        "confirm": "remembered already, and confirmed",
        "supersede": "remembered, in place of what was known before",
        "retract": "taken back",
    }
    return _told(change.fact, done[change.action])


def _told(fact: Fact, what: str) -> str:
    return f"{what}: {fact.text!r} (key {fact.key})"


search_memory, remember, forget = memory_tools()
