"""What memkit's nodes tell on LangGraph's `custom` stream, one class per event.

    for event in graph.stream(turn, config, stream_mode="custom"):
        if event.get("memkit") == "trim":
            print(event["tokens_before"], "->", event["tokens"])

An event is a dict of what JSON has, tells its kind under "memkit", and has all the keys of its
class. `node` is what the node is called in your graph. Events hold ids, keys, counts, times and
names of classes, and nothing that anybody said; what is in them was at hand anyway, so that they
cost next to nothing where nobody listens. Outside of a graph none are sent. The logger
`memkit.nodes` tells each at DEBUG.

| event | sent by | when |
|---|---|---|
| `recall` | MemoryRecall | on every search |
| `verify` | StaleFactCheck | some recalled fact is stale or expired |
| `summarize` | RollingSummarizer | turns were folded |
| `trim` | TokenTrimmer | on every visit |
| `remove` | a destructive RollingSummarizer or TokenTrimmer | messages left the history |
| `extract` | FactExtractor | messages of persons were read |
| `record` | TurnRecorder | turns were recorded |
| `consolidate` | FactConsolidator | facts were merged or dropped |
| `retain` | Retention | checkpoints went |
| `failed` | any node that goes on without a model, a reranker or a pruning | that failed |
"""

from typing import Literal, TypeAlias

from typing_extensions import TypedDict  # pydantic refuses typing's before Python 3.12


class RecallEvent(TypedDict):
    """What was looked up, and how long it took."""

    memkit: Literal["recall"]
    node: str
    ms: float
    """Of the visit: embedding, the store, reranking."""
    memories: int
    """How many are in `recalled`; of these:"""
    facts: int
    turns: int
    stale: int
    expired: int


class VerifyEvent(TypedDict):
    """Which facts may not be relied on; lists hold keys of facts."""

    memkit: Literal["verify"]
    node: str
    stale: list[str]
    expired: list[str]
    asked: list[str]
    """Those that the person is to confirm in this turn."""
    answered: dict[str, int]
    """How many answers there were to an interrupt: "confirm", "correct", "retract", "skip"; "gone"
    are facts that others had replaced or taken back before the answer came."""


class SummarizeEvent(TypedDict):
    """Turns became part of the summary."""

    memkit: Literal["summarize"]
    node: str
    folded: list[str]
    """Ids of the messages."""
    tokens_before: int
    """Of the summary so far; 0 for the first."""
    tokens: int
    calls: int
    """Of the model, over all parts of the fold."""
    usage: dict[str, int]
    """What the provider said of them: "input_tokens", "output_tokens"."""
    unextracted: int
    """How many of the messages FactExtractor had not read, though it was to be waited for."""


class TrimEvent(TypedDict):
    """What a view was made of; lists hold ids of messages."""

    memkit: Literal["trim"]
    node: str
    tokens_before: int
    """Of the view without this turn's cut; where a long history is cut for the first time, what was
    counted until it was certain that it does not fit."""
    tokens: int
    """Of the view."""
    max_tokens: int
    """What the budget leaves for a view."""
    cut_turns: int
    """How many turns the view dropped in this turn, and their messages:"""
    dropped: list[str]
    orphaned: list[str]
    """Tool calls and results in the view's stretch that were left out: they lack each other."""
    set_aside: list[str]
    """Tool traffic of earlier turns, where the budget keeps none."""
    cleared: list[str]
    """Tool results that are shown cleared."""
    shortened: list[str]
    left_out: list[str]
    """"facts", "summary": of what there was no room for all."""


class RemoveEvent(TypedDict):
    """Messages left the history, by their ids."""

    memkit: Literal["remove"]
    node: str
    removed: list[str]


class ExtractEvent(TypedDict):
    """What became of the facts in the messages that were read."""

    memkit: Literal["extract"]
    node: str
    messages: int
    """How many messages were read."""
    accepted: int
    """Proposals that passed all gates. What they did to the facts that are known:"""
    add: int
    confirm: int
    """Duplicates: the fact was known."""
    supersede: int
    retract: int
    refused: dict[str, int]
    """How many each gate kept back: "own", "grounded", "asserted", "instructions", "secrets", and
    "malformed"."""


class RecordEvent(TypedDict):
    """Turns went into the store; in `redacted` of them a secret was kept out."""

    memkit: Literal["record"]
    node: str
    recorded: int
    redacted: int


class ConsolidateEvent(TypedDict):
    """How many facts were merged into others, were long over, or were too many of a kind."""

    memkit: Literal["consolidate"]
    node: str
    merged: int
    expired: int
    over_cap: int


class RetainEvent(TypedDict):
    """Checkpoints of this thread went."""

    memkit: Literal["retain"]
    node: str
    checkpoints: int
    rows: int
    """Of all tables; and the bytes of what they held:"""
    bytes: int


class FailedEvent(TypedDict):
    """Something failed, and the turn went on without it."""

    memkit: Literal["failed"]
    node: str
    what: Literal["summary", "extraction", "reranker", "retention"]
    error: str
    """The class of the error, with the HTTP status of a provider; or what was wrong with a reply.
    Never its message, which may quote what was said."""
    passed_over: int
    """Messages that are given up; all others are tried again."""


MemkitEvent: TypeAlias = (
    RecallEvent
    | VerifyEvent
    | SummarizeEvent
    | TrimEvent
    | RemoveEvent
    | ExtractEvent
    | RecordEvent
    | ConsolidateEvent
    | RetainEvent
    | FailedEvent
)
