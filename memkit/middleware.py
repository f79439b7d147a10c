"""MemoryMiddleware: the memory of an agent that `langchain.agents.create_agent` makes."""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, NotRequired

from langchain_core.language_models import BaseChatModel
from langgraph.config import get_config
from langgraph.runtime import Runtime
from langgraph.types import Command

from memkit.budget import ContextBudget
from memkit.effects import Body, arun, run
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
from memkit.nodes.base import MemoryNode, Update, Visit, check_type, resolve_model
from memkit.state import Recalled, Source, Summary, merge_memory

try:
    from langchain.agents.middleware import (
        AgentMiddleware,
        AgentState,
        ExtendedModelResponse,
        ModelRequest,
        ModelResponse,
    )
    from langchain.agents.middleware.types import PrivateStateAttr
    from langchain.agents.structured_output import AutoStrategy, ProviderStrategy, ToolStrategy
except ImportError as error:
    raise ConfigError(
        f"memkit.middleware needs a recent LangChain ({error}): pip install 'memkit[agents]'"
    ) from None

# The entry of `memory` that says how many tokens the prompt takes beside the messages.
_PROMPT = "prompt"


class AgentMemoryState(AgentState[Any]):
    """What memkit keeps in the state of an agent: checkpointed, and neither input nor output."""

    summary: NotRequired[Annotated[Summary | None, PrivateStateAttr]]
    recalled: NotRequired[Annotated[list[Recalled], PrivateStateAttr]]
    memory: NotRequired[Annotated[dict[str, Any], PrivateStateAttr, merge_memory]]


class MemoryMiddleware(AgentMiddleware[AgentMemoryState, Any, Any]):
    """Recalls before the model is called and keeps the prompt in its budget; learns afterwards.

    Each call of the model is given the view under one budget, with the system prompt, the tools
    and a response format counted in; the messages of the agent stay as they are. Memories are
    recalled once for each message of the person, however many calls its answer takes. When the
    agent has answered, facts are extracted and old turns folded into the summary.

        create_agent(
            model, tools, middleware=[MemoryMiddleware(model, ContextBudget(8_000))],
            checkpointer=checkpointer, store=store,
        ).invoke({"messages": [...]}, {"configurable": {"thread_id": "t1", "user_id": "ann"}})

    Beside other middleware it comes last: what stands before it in the list sees the messages as
    they are, what stands behind it sees the view. Middleware that rewrites the history itself
    (SummarizationMiddleware) is not needed, and what it removes before the agent has answered is
    not read for facts.

    An agent that another one calls as a tool is told things by that one, in human messages; give
    this to the agent that persons talk to.

    Args:
        model: For extraction and summaries: a chat model, a name for `init_chat_model`, or None
            for the forms that need none.
        budget: The one budget of everything the model is sent. With tools whose results are long,
            `on_overflow="shorten_tools"` rather than an error.
        policy: When facts are stale.
        limit: The most memories to recall.
        record_turns: Also keep turns as said, and recall them.
        namespace: Where facts are.
        turns_namespace: Where turns are.

    State:
        `summary`, `recalled` and `memory`, as MemoryState has them, private to the agent.

    Events:
        Those of the nodes that do the work, in the `custom` stream.

    Raises:
        ConfigError: An argument makes no sense, or LangChain is missing; while it runs: the run
            does not say whose memory it is.
        BudgetTooSmall: The system prompt and the latest turn do not fit.
        StoreMissing: The agent was made without a store.
    """

    state_schema = AgentMemoryState

    def __init__(
        self,
        model: BaseChatModel | str | None = None,
        budget: ContextBudget | None = None,
        *,
        policy: StalenessPolicy | None = None,
        limit: int = 8,
        record_turns: bool = False,
        namespace: Sequence[str] = FACTS_NAMESPACE,
        turns_namespace: Sequence[str] = TURNS_NAMESPACE,
    ) -> None:
        super().__init__()
        if budget is None:
            raise ConfigError("say what fits the model: MemoryMiddleware(budget=ContextBudget(…))")
        check_type("budget", budget, ContextBudget)
        self.model = resolve_model(model)
        self.budget = budget
        sources: tuple[Source, ...] = ("facts", "turns") if record_turns else ("facts",)
        self._before: list[MemoryNode] = [
            MemoryRecall(
                limit=limit,
                sources=sources,
                policy=policy,
                once_per_turn=True,
                namespace=namespace,
                turns_namespace=turns_namespace,
            ),
            StaleFactCheck(policy, namespace=namespace),
        ]
        self._after: list[MemoryNode] = [FactExtractor(self.model, namespace=namespace)]
        if record_turns:
            self._after.append(TurnRecorder(namespace=turns_namespace))
        self._trimmers: tuple[list[Any], TokenTrimmer] = ([], TokenTrimmer(budget))
        self._summarizers: tuple[int, RollingSummarizer] = (0, self._summarizer(0))

    # LangChain's hooks

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ExtendedModelResponse[Any]:
        """Give the model the view."""
        shown, update = run(self._shown(request))
        return ExtendedModelResponse(handler(shown), Command(update=update))

    async def awrap_model_call(
        self,
        request: ModelRequest[Any],
        handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]],
    ) -> ExtendedModelResponse[Any]:
        """Give the model the view, without blocking the event loop."""
        shown, update = await arun(self._shown(request))
        return ExtendedModelResponse(await handler(shown), Command(update=update))

    def after_agent(self, state: Any, runtime: Runtime[Any]) -> Update:
        """Extract facts, and fold what the view has no room for."""
        return run(self._learned(state, runtime))

    async def aafter_agent(self, state: Any, runtime: Runtime[Any]) -> Update:
        """Extract facts and fold, without blocking the event loop."""
        return await arun(self._learned(state, runtime))

    # What they do

    def _shown(self, request: ModelRequest[Any]) -> Body[tuple[ModelRequest[Any], Update]]:
        """Return the request with the view in place of the messages, and what the state gets."""
        state: Mapping[str, Any] = request.state
        update = yield from _each(self._before, state, request.runtime)
        system = [] if request.system_message is None else [request.system_message]
        trimmer = self._trimmer(request)
        prompt = {**state, **update, "messages": [*system, *request.messages]}
        update |= yield from trimmer.body(_visit(trimmer, prompt, request.runtime))
        view = update.pop(trimmer.output_key)
        budget = trimmer.budget
        beside = budget.tool_tokens + sum(budget.sizes(system))
        seen = _visit(trimmer, {**state, **update}, request.runtime)
        if trimmer.cursor(seen, _PROMPT).get("beside") != beside:
            update |= trimmer.with_cursor(seen, _PROMPT, {"beside": beside})
        return request.override(messages=view[len(system) :]), update

    def _learned(self, state: Mapping[str, Any], runtime: Runtime[Any]) -> Body[Update]:
        beside: int = (state.get("memory") or {}).get(_PROMPT, {}).get("beside", 0)
        # Runs in other threads change it meanwhile.
        before, summarizer = self._summarizers
        if before != beside:
            summarizer = self._summarizer(beside)
            self._summarizers = (beside, summarizer)
        return _each([*self._after, summarizer], state, runtime)

    def _trimmer(self, request: ModelRequest[Any]) -> TokenTrimmer:
        """Return a trimmer whose budget counts what is bound to the model in this call."""
        bound = [*request.tools, *_schemas(request.response_format)]
        before, trimmer = self._trimmers
        if before != bound:
            budget = replace(self.budget, tools=tuple(bound)) if bound else self.budget
            trimmer = TokenTrimmer(budget)
            self._trimmers = (bound, trimmer)
        return trimmer

    def _summarizer(self, beside: int) -> RollingSummarizer:
        """Return a summarizer that knows what the prompt takes beside the messages."""
        budget = replace(self.budget, reserve_reply=self.budget.reserve_reply + beside)
        return RollingSummarizer(self.model, budget, after_extraction=True)


def _visit(node: MemoryNode, state: Mapping[str, Any], runtime: Runtime[Any]) -> Visit:
    return Visit(state, get_config(), runtime, node.name or "")


def _each(
    nodes: Sequence[MemoryNode], state: Mapping[str, Any], runtime: Runtime[Any]
) -> Body[Update]:
    """Run nodes one after the other, and return what all of them update."""
    update: Update = {}
    for node in nodes:
        update |= yield from node.body(_visit(node, {**state, **update}, runtime))
    return update


def _schemas(response_format: Any) -> Iterator[dict[str, Any]]:
    """Yield what a response format adds to a prompt, as if it were tools."""
    if isinstance(response_format, AutoStrategy):
        response_format = ToolStrategy(response_format.schema)
    if isinstance(response_format, ToolStrategy):
        specs = list(response_format.schema_specs)
    elif isinstance(response_format, ProviderStrategy):
        specs = [response_format.schema_spec]
    else:
        specs = []
    for spec in specs:
        function = {"name": spec.name, "description": spec.description}
        parameters = {"parameters": spec.json_schema}
        yield {"type": "function", "function": {**function, **parameters}}
