"""TokenTrimmer: what the model is to see, under one budget."""

from typing import Any

from memkit.effects import Body
from memkit.nodes.base import MemoryNode, Update, Visit, check_type
from memkit.view import ContextBudget, build_view


class TokenTrimmer(MemoryNode):
    """Writes the view for the model: system, summary, recent turns and recalled facts.

    The history stays whole. Where the last cut was is kept, so that until the next cut the view
    grows at its end only.

    Args:
        budget: The one budget of everything in the view.
        output_key: The state key of the view.
        summary_key: The state key of the running summary, if the state has one.
        recalled_key: The state key of the recalled memories, if the state has one.
        kwargs: See MemoryNode.

    State:
        Reads messages, summary, recalled, memory; writes `llm_input_messages` and
        `memory["trim"]`.

    Events:
        `{"memkit": "TokenTrimmer", "tokens", "dropped", "orphaned", "shortened", "left_out"}`
        when something was.

    Raises:
        BudgetTooSmall: On a turn whose system messages and latest turn do not fit.
    """

    def __init__(
        self,
        budget: ContextBudget,
        *,
        output_key: str = "llm_input_messages",
        summary_key: str = "summary",
        recalled_key: str = "recalled",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_type("budget", budget, ContextBudget)
        self.budget = budget
        self.output_key = output_key
        self.summary_key = summary_key
        self.recalled_key = recalled_key

    @property
    def writes(self) -> tuple[str, ...]:
        """The state keys this node writes."""
        return (self.output_key, self.memory_key)

    def body(self, visit: Visit) -> Body[Update]:
        """Build the view; asks nothing of the outside."""
        yield from ()
        view = build_view(
            self.messages(visit),
            self.budget,
            summary=visit.read(self.summary_key),
            recalled=visit.read(self.recalled_key) or [],
            start_id=self.cursor(visit, "trim").get("start_id"),
        )
        if view.cut or view.orphaned or view.shortened or view.left_out:
            visit.emit(
                tokens=view.tokens,
                dropped=view.dropped,
                orphaned=view.orphaned,
                shortened=view.shortened,
                left_out=view.left_out,
            )
        report = {
            "start_id": view.start_id,
            "tokens": view.tokens,
            "dropped": len(view.dropped),
            "orphaned": len(view.orphaned),
            "shortened": len(view.shortened),
            "left_out": view.left_out,
        }
        return {self.output_key: view.messages, **self.with_cursor(visit, "trim", report)}
