"""TokenTrimmer: what the model is to see, under one budget."""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

from memkit.budget import ContextBudget
from memkit.effects import Body
from memkit.events import TrimEvent
from memkit.messages import id_of
from memkit.nodes.base import MemoryNode, Update, Visit, check_type
from memkit.nodes.removal import remover
from memkit.nodes.results import RESULTS_NAMESPACE
from memkit.view import build_view

OUTPUT_KEY = "llm_input_messages"


class TokenTrimmer(MemoryNode):
    """Writes the view for the model: system, summary, recent turns and recalled facts.

    The history stays whole, unless the node is told to be destructive. Where the last cut was is
    kept, so that until the next cut the view grows at its end only.

    Args:
        budget: The one budget of everything in the view.
        destructive: Also remove from the history the turns that the view has dropped, and, in a
            graph without a summarizer, clear there the tool results that it shows cleared. What
            the summarizer has not folded, or the extractor and the recorder have not read, waits;
            so does everything on the first turn. In a subgraph that shares its messages with the
            graph around it, this concerns the subgraph's state alone.
        results_namespace: Where a destructive trimmer puts tool results before they go, see
            `find_tool_result`; None to let them go.
        output_key: The state key of the view.
        summary_key: The state key of the running summary, if the state has one.
        recalled_key: The state key of the recalled memories, if the state has one.
        kwargs: See MemoryNode.

    State:
        Reads messages, summary, recalled, memory; writes `llm_input_messages` and
        `memory["trim"]`, and removes from messages if it is destructive. The entry holds where the
        view starts and ends, its `tokens`, and the `report`: of the messages in the history, how
        many are `dropped` (neither in the view nor in the summary), `orphaned`, `set_aside`,
        `cleared` and `shortened`, what is `left_out`, and how many were `removed` on this turn.

    Events:
        TrimEvent on every visit, RemoveEvent when messages leave the history (memkit.events). In
        the `messages` stream LangGraph sends what any node returns, so the notes of the view, too:
        take there what your own node says, by `langgraph_node` of the metadata.

    Raises:
        BudgetTooSmall: On a turn whose system messages and latest turn do not fit.
        ConfigError: It is destructive, and the state cannot remove messages.
        StoreMissing: It is destructive with a `results_namespace`, and the graph has no store.

    Cost:
        Proportional to the view, not to the history. A destructive one writes tool results in one
        `batch` of the store on a turn on which some go.
    """

    def __init__(
        self,
        budget: ContextBudget,
        *,
        destructive: bool = False,
        results_namespace: Sequence[str] | None = RESULTS_NAMESPACE,
        output_key: str = OUTPUT_KEY,
        summary_key: str = "summary",
        recalled_key: str = "recalled",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_type("budget", budget, ContextBudget)
        check_type("destructive", destructive, bool)
        self.budget = budget
        self.remover = remover(self.messages_key, results_namespace) if destructive else None
        self.output_key = output_key
        # A second trimmer of a graph has a view of its own.
        self.entry = "trim" if output_key == OUTPUT_KEY else f"trim:{output_key}"
        self.summary_key = summary_key
        self.recalled_key = recalled_key

    @property
    def writes(self) -> tuple[str, ...]:
        """The state keys this node writes."""
        return (self.output_key, self.memory_key)

    def body(self, visit: Visit) -> Body[Update]:
        """Build the view; asks the outside only where results go into the store."""
        if self.remover is not None:
            self.remover.check(visit)
        before = self.cursor(visit, self.entry)
        view = build_view(
            self.messages(visit),
            self.budget,
            summary=visit.read(self.summary_key),
            recalled=visit.read(self.recalled_key) or [],
            memory={**self.cursors(visit), "trim": before},
        )
        cursor = view.cursor
        # Copies of those without an id: LangGraph gives one to what it streams, in place, and the
        # messages of the history would be others from there on.
        messages = [m if m.id else m.model_copy() for m in view.messages]
        update: Update = {self.output_key: messages}
        gone: list[int] = []
        # Not on its first turn: nodes behind it have not yet said that they read this thread.
        if self.remover is not None and before.get("removes"):
            folded = bool(visit.read(self.summary_key)) or "summarize" in self.cursors(visit)
            limit = min(view.covered, view.start) if folded else view.start
            limit = self.read_by_all(visit, view.history.messages, limit)
            # A summarizer is to read the whole result.
            replaced = {} if folded else view.cleared
            gone, removal = yield from self.remover.remove(visit, view.history, limit, replaced)
            update |= removal
            cursor = _moved(cursor, gone)
        report = {
            "dropped": view.dropped_count,
            "orphaned": len(view.orphaned),
            "set_aside": len(view.set_aside),
            "cleared": len(view.cleared),
            "shortened": len(view.shortened),
            "left_out": view.left_out,
            "removed": len(gone),
        }
        history = view.history.messages
        visit.emit(
            TrimEvent(
                memkit="trim",
                node=visit.place,
                tokens_before=view.tokens_before,
                tokens=view.tokens,
                max_tokens=self.budget.high,
                cut_turns=view.turns_since(view.history.start),
                dropped=view.dropped_since(view.history.start),
                orphaned=view.orphaned,
                set_aside=view.set_aside,
                cleared=[id_of(history, i) for i in view.cleared],
                shortened=view.shortened,
                left_out=view.left_out,
            )
        )
        end_id = id_of(history, len(history) - 1) if history else None
        entry = {**cursor, "end_id": end_id, "tokens": view.tokens, "report": report}
        if self.remover is not None:
            entry["removes"] = True
        return {**update, **self.with_cursor(visit, self.entry, entry)}


def _moved(cursor: dict[str, Any], gone: Sequence[int]) -> dict[str, Any]:
    """Return a cursor into the history without some messages."""
    if "start" not in cursor:
        return cursor
    return {
        **cursor,
        "start": cursor["start"] - bisect_left(gone, cursor["start"]),
        "system": [i - bisect_left(gone, i) for i in cursor["system"]],
    }
