"""add_memory: the nodes around a node of an existing graph, in one line."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, get_type_hints

from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.channels import LastValue
from langgraph.graph import StateGraph
from langgraph.pregel import Pregel
from langgraph.types import CachePolicy, Command
from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError
from typing_extensions import TypedDict

from memkit.budget import ContextBudget
from memkit.errors import ConfigError
from memkit.facts import StalenessPolicy
from memkit.namespaces import FACTS_NAMESPACE, TURNS_NAMESPACE
from memkit.nodes import (
    FactExtractor,
    MemoryRecall,
    RollingSummarizer,
    StaleFactCheck,
    TokenTrimmer,
    TurnRecorder,
)
from memkit.nodes.base import check_type
from memkit.nodes.trim import OUTPUT_KEY
from memkit.state import MemoryState, Source
from memkit.wiring.edges import LedElsewhere, redirect, renamed_ends
from memkit.wiring.served import ServedWithView

# What the keys that memkit adds are to hold.
_HELD: dict[str, Any] = {
    "summary": {"text": "", "through_id": "", "tokens": 0, "updated_at": ""},
    "recalled": [
        {
            "key": "",
            "source": "facts",
            "text": "",
            "kind": "",
            "last_updated": None,
            "last_confirmed": None,
            "freshness": "fresh",
            "score": None,
            "message_ids": [],
            "thread_id": None,
        }
    ],
    "memory": {"trim": {"writes": 1}},
}


def add_memory(
    builder: StateGraph[Any, Any, Any, Any],
    *,
    around: str,
    budget: ContextBudget,
    model: BaseChatModel | str | None = None,
    policy: StalenessPolicy | None = None,
    record_turns: bool = False,
    destructive: bool = False,
    messages_key: str = "messages",
    summary_key: str = "summary",
    recalled_key: str = "recalled",
    memory_key: str = "memory",
    limit: int = 8,
    namespace: Sequence[str] = FACTS_NAMESPACE,
    turns_namespace: Sequence[str] = TURNS_NAMESPACE,
) -> StateGraph[Any, Any, Any, Any]:
    """Wire recall, stale-fact check, summarizer and trimmer before a node, and extraction after it.

    Edges, conditional edges and jumps by a Command into `around` lead to the first memory node,
    edges out of it start behind the last. The node itself is served the view under the key it
    already reads, so that it need not know of memkit; state keys that are missing are added. In a
    tool loop memories are searched for once per human message. Call it when the graph has all of
    its nodes and edges.

    What reaches `around` with a state that has not been through the memory nodes, as a Send does,
    is served a view of that state, with what is recalled for its own latest human message. A Send
    with anything else, and one without messages, gets just what it carries.

    The way through `around` becomes longer by the memory nodes. A node that plain edges lead to
    both from `around` and from another branch so runs twice, once behind each, as in any graph with
    branches of unequal length; `add_edge([around, other], node)` has it wait for both. What is
    chosen behind `around` is chosen once, behind all that Sends made of it.

    Args:
        builder: The graph, not yet compiled.
        around: The node that calls the model.
        budget: The one budget of everything it sees.
        model: For summaries and extraction; None for the model-free forms.
        policy: When facts are stale.
        record_turns: Also keep turns as said, and recall them.
        destructive: Also remove from the history what was folded and read, see TokenTrimmer.
        messages_key: The state key of the messages.
        summary_key: The state key of the running summary; another one where yours has that name.
        recalled_key: The state key of the recalled memories, likewise.
        memory_key: The state key of the cursors of all memkit nodes, likewise.
        limit: The most memories to recall.
        namespace: Where facts are.
        turns_namespace: Where turns are.

    Returns:
        The builder.

    Raises:
        ConfigError: The graph is compiled already, there is no such node, it does not read the
            messages, it is a subgraph with a history of its own, it is cached by its input alone,
            a key of the state is of another type than memkit keeps there, or a node is named like
            one that would be added. The builder is then as it was.
    """
    keys = {
        "messages": messages_key,
        "summary": summary_key,
        "recalled": recalled_key,
        "memory": memory_key,
    }
    _check(builder, around, keys)
    common: dict[str, Any] = {"messages_key": messages_key, "memory_key": memory_key}
    view: dict[str, Any] = {"summary_key": summary_key, "recalled_key": recalled_key}
    sources: tuple[Source, ...] = ("facts", "turns") if record_turns else ("facts",)
    recall = partial(
        MemoryRecall,
        limit=limit,
        sources=sources,
        policy=policy,
        namespace=namespace,
        turns_namespace=turns_namespace,
        output_key=recalled_key,
        summary_key=summary_key,
        **common,
    )
    before: dict[str, Runnable[Any, Any]] = {
        "memory_recall": recall(once_per_turn=True),
        "memory_verify": StaleFactCheck(
            policy, namespace=namespace, recalled_key=recalled_key, **common
        ),
        "memory_summarize": RollingSummarizer(
            model, budget, after_extraction=True, **view, **common
        ),
        "memory_trim": _QuietTrimmer(budget, destructive=destructive, **view, **common),
    }
    behind: dict[str, Runnable[Any, Any]] = {
        "memory_remember": FactExtractor(model, namespace=namespace, **common)
    }
    if record_turns:
        behind["memory_record"] = TurnRecorder(namespace=turns_namespace, **common)
    taken = sorted({*before, *behind} & set(builder.nodes))
    if taken:
        raise ConfigError(
            f"the graph already has nodes named {taken}; is its memory wired twice? Where two "
            "nodes are to have it, wire those of the second by hand"
        )
    first, last = next(iter(before)), list(behind)[-1]

    redirect(builder, around, first, last)
    schema = _schema_with_memory(builder, keys)
    spec = builder.nodes[around]
    for name, node in (before | behind).items():
        # A node that waits for all others lets its memory wait, too.
        defer = spec.defer and name in before
        builder.add_node(name, node, input_schema=schema, defer=defer, cache_policy=_Uncached())
    for start, end in pairwise([*before, around, *behind]):
        builder.add_edge(start, end)
    appends = not isinstance(builder.channels.get(messages_key), LastValue)
    served = ServedWithView(spec.runnable, recall(), budget, keys, appends=appends)  # type: ignore[arg-type]
    builder.nodes[around] = dataclasses.replace(
        spec, runnable=served, cache_policy=spec.cache_policy or _Uncached()
    )
    for name, each in builder.nodes.items():
        if name not in before and name not in behind:
            led: Any = LedElsewhere(each.runnable, around, first)  # type: ignore[arg-type]
            ends = renamed_ends(each.ends, around, first)
            builder.nodes[name] = dataclasses.replace(each, runnable=led, ends=ends)
    return builder


class _Uncached(CachePolicy[Any]):
    """Keeps a default of the graph's, set now or later, from nodes that read and write the store.

    LangGraph gives the default to nodes without a policy, and caches by one that is true.
    """

    def __bool__(self) -> bool:
        return False


class _QuietTrimmer(TokenTrimmer):
    """Keeps the view, with its notes, out of the `messages` stream.

    There LangGraph sends the messages that it finds in the updates of nodes; in the pairs of a
    Command it looks for none.
    """

    def invoke(self, input: Any, config: RunnableConfig | None = None, **_: Any) -> Any:  # noqa: A002 - Runnable's name
        return Command(update=list(super().invoke(input, config).items()))

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **_: Any) -> Any:  # noqa: A002 - Runnable's name
        return Command(update=list((await super().ainvoke(input, config)).items()))


def _check(builder: StateGraph[Any, Any, Any, Any], around: str, keys: Mapping[str, str]) -> None:
    """Refuse what cannot be wrapped."""
    if not isinstance(builder, StateGraph) or builder.compiled:
        raise ConfigError(
            "add_memory takes a StateGraph before compile(); call it on the builder, then compile"
        )
    if around not in builder.nodes:
        raise ConfigError(
            f"the graph has no node {around!r} to wrap; it has {sorted(builder.nodes)}"
        )
    for name, key in keys.items():
        check_type(f"{name}_key", key, str)
    if len(set(keys.values())) < len(keys):
        raise ConfigError(f"each state key is for one thing, got {sorted(keys.values())}")
    spec, messages_key = builder.nodes[around], keys["messages"]
    for what, read in (("the state", builder.state_schema), (repr(around), spec.input_schema)):
        if not isinstance(read, type):
            raise ConfigError(
                f"{what} is {read!r}, which has no room for what memkit keeps; let it be a class "
                "with a key for the messages, like MessagesState"
            )
        if messages_key not in get_type_hints(read):
            raise ConfigError(
                f"{what} has no key {messages_key!r} in its schema {read.__name__}, so there is "
                "nothing to serve a view under; add it, or pass messages_key="
            )
    hints = get_type_hints(builder.state_schema)
    for name, holds in _HELD.items():
        key = keys[name]
        if key in hints and not _can_hold(hints[key], holds):
            raise ConfigError(
                f"the state has a key {key!r} of its own, {hints[key]!r}, where memkit keeps its "
                f'{name}; pass {name}_key="memkit_{name}", or any other name'
            )
    if isinstance(spec.runnable, Pregel) and spec.runnable.checkpointer is True:
        raise ConfigError(
            f"{around!r} is a subgraph with checkpointer=True, which keeps a history of its own "
            "and would add every view to it; call add_memory on the builder of the subgraph instead"
        )
    # A key of the usual kind is made of the node's input, which the memories are no part of.
    usual: Any = CachePolicy().key_func
    if spec.cache_policy and spec.cache_policy.key_func is usual:
        raise ConfigError(
            f"{around!r} is cached by its input, which does not hold what is recalled, so that one "
            "user could get the answer of another; take its cache_policy off, or give it a key_func"
        )


def _can_hold(hint: Any, value: Any) -> bool:
    try:
        TypeAdapter(hint).validate_python(value)
    except ValidationError:
        return False
    except PydanticUserError:
        return True  # a type that says nothing of its values
    return True


def _schema_with_memory(
    builder: StateGraph[Any, Any, Any, Any], keys: Mapping[str, str]
) -> type[Any]:
    """Return the graph's state with memkit's keys; a node with this input adds them as channels."""
    hints = get_type_hints(builder.state_schema, include_extras=True)
    ours = get_type_hints(MemoryState, include_extras=True)
    wanted = {OUTPUT_KEY: ours[OUTPUT_KEY], **{keys[name]: ours[name] for name in _HELD}}
    return TypedDict("StateWithMemory", {**wanted, **hints})  # type: ignore[operator,no-any-return]
