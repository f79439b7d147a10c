"""TokenTrimmer: what the model is to see, under one budget."""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

from langchain_core.messages import ToolMessage

from memkit.budget import ContextBudget
from memkit.effects import Body, StoreBatch
from memkit.messages import id_of
from memkit.nodes.base import MemoryNode, Update, Visit, check_namespace, check_type
from memkit.nodes.removal import removable, removal, way_to_remove
from memkit.nodes.results import RESULTS_NAMESPACE, stored
from memkit.tool_results import is_cleared
from memkit.view import View, build_view


class TokenTrimmer(MemoryNode):
    """Writes the view for the model: system, summary, recent turns and recalled facts.

    The history stays whole, unless the node is told to be destructive. Where the last cut was is
    kept, so that until the next cut the view grows at its end only.

    Args:
        budget: The one budget of everything in the view.
        destructive: Also remove from the history the turns that the view has dropped, and clear
            there the tool results that it shows cleared. What the summarizer has not folded, or the
            extractor and the recorder have not read, waits.
        results_namespace: Where a destructive trimmer puts tool results before they go, see
            `tool_result`; None to let them go.
        output_key: The state key of the view.
        summary_key: The state key of the running summary, if the state has one.
        recalled_key: The state key of the recalled memories, if the state has one.
        kwargs: See MemoryNode.

    State:
        Reads messages, summary, recalled, memory; writes `llm_input_messages` and
        `memory["trim"]`, and removes from messages if it is destructive. The entry holds the
        report of the turn: `tokens`, and how many messages were `dropped` since the start of the
        conversation, and are now `orphaned`, `set_aside`, `cleared` and `shortened`.

    Events:
        `{"memkit": "TokenTrimmer", "tokens", "dropped", "orphaned", "set_aside", "cleared",
        "shortened", "left_out", "removed"}`, with ids of messages, on a turn on which one of them
        changed.

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
        output_key: str = "llm_input_messages",
        summary_key: str = "summary",
        recalled_key: str = "recalled",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_type("budget", budget, ContextBudget)
        check_type("destructive", destructive, bool)
        self.budget = budget
        self.destructive = destructive
        self.results_namespace = (
            None if results_namespace is None else check_namespace(results_namespace)
        )
        self.output_key = output_key
        self.summary_key = summary_key
        self.recalled_key = recalled_key

    @property
    def writes(self) -> tuple[str, ...]:
        """The state keys this node writes."""
        return (self.output_key, self.memory_key)

    def body(self, visit: Visit) -> Body[Update]:
        """Build the view; asks the outside only where results go into the store."""
        if self.destructive:
            # Said on the first turn, not on the one that has something to remove.
            way = way_to_remove(visit.config, self.messages_key)
            namespace = self._results_in(visit)
        before = self.cursor(visit, "trim")
        view = build_view(
            self.messages(visit),
            self.budget,
            summary=visit.read(self.summary_key),
            recalled=visit.read(self.recalled_key) or [],
            cursor=before,
            place=self.cursor(visit, "summarize"),
        )
        cursor = view.cursor
        update: Update = {self.output_key: view.messages}
        gone: list[int] = []
        if self.destructive:
            messages = view.history.messages
            gone, replaced = self._may_go(visit, view), view.cleared_results
            results = [messages[i] for i in (*gone, *replaced)]
            if namespace is not None:
                puts = [
                    stored(namespace, message)
                    for message in results
                    if isinstance(message, ToolMessage) and not is_cleared(message)
                ]
                if puts:
                    yield StoreBatch(visit.store, puts)
            if results:
                update[self.messages_key] = removal(way, messages, gone, replaced)
                cursor = _moved(cursor, gone)
        report = {
            "tokens": view.tokens,
            "dropped": view.dropped_count,
            "orphaned": len(view.orphaned),
            "set_aside": len(view.set_aside),
            "cleared": len(view.cleared),
            "shortened": len(view.shortened),
            "left_out": view.left_out,
            "removed": len(gone),
        }
        if view.cut or view.orphaned or view.shortened or view.left_out or gone:
            visit.emit(
                tokens=view.tokens,
                dropped=view.dropped_since(view.history.start),
                orphaned=view.orphaned,
                set_aside=view.set_aside,
                cleared=view.cleared,
                shortened=view.shortened,
                left_out=view.left_out,
                removed=[id_of(view.history.messages, i) for i in gone],
            )
        return {**update, **self.with_cursor(visit, "trim", {**cursor, **report})}

    def _results_in(self, visit: Visit) -> tuple[str, ...] | None:
        """Return the namespace that tool results go to, in a store that is there."""
        if self.results_namespace is None:
            return None
        _ = visit.store
        return visit.namespace(self.results_namespace)

    def _may_go(self, visit: Visit, view: View) -> list[int]:
        """Return positions of messages that the view dropped and that nobody waits for."""
        folded = visit.read(self.summary_key) or "summarize" in self.cursors(visit)
        limit = view.covered if folded else view.start
        return removable(view.history, self.read_by_all(visit, view.history.messages, limit))


def _moved(cursor: dict[str, Any], gone: Sequence[int]) -> dict[str, Any]:
    """Return a cursor into the history without some messages."""
    if "start" not in cursor:
        return cursor
    return {
        **cursor,
        "start": cursor["start"] - bisect_left(gone, cursor["start"]),
        "system": [i - bisect_left(gone, i) for i in cursor["system"]],
    }
