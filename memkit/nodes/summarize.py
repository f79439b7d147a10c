"""RollingSummarizer: old turns become a running summary."""

import logging
from collections.abc import Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage
from langgraph.errors import GraphBubbleUp

from memkit import prompts
from memkit.budget import ContextBudget
from memkit.effects import AskModel, Body
from memkit.history import History
from memkit.messages import after, id_of, turn_starts
from memkit.nodes.base import MemoryNode, Update, Visit, check_type, resolve_model
from memkit.summary import (
    UnusableSummary,
    checked_reply,
    cut_sentences,
    extract_summary,
    transcript,
)
from memkit.view import checked_summary, cleared_until
from memkit.window import fit

_log = logging.getLogger(__name__)
_NOSTREAM = "nostream"  # LangGraph keeps tokens of a call with this tag out of the user's stream
_STRICTER = "- Your last record was too long. Keep only what later turns cannot do without."
_WRAPPER_TOKENS = 32  # the heading of the summary in the view and its message overhead, rounded up


class RollingSummarizer(MemoryNode):
    """Folds the oldest turns into `summary` once the view would exceed the budget.

    It folds whole turns, never the latest, until the view is down to the low watermark. A reply
    that is empty, cut off, refused or a placeholder, and a call that fails, leave the state as it
    was: the trimmer keeps the view within budget, and the next turn tries again.

    Args:
        model: A chat model, a name for `init_chat_model`, or None for the extractive form.
        budget: The budget that the trimmer uses too.
        summary_key: The state key of the summary.
        recalled_key: The state key of the recalled memories, if the state has one.
        kwargs: See MemoryNode.

    State:
        Reads messages, summary, recalled, memory; writes `summary` and `memory["summarize"]`.

    Events:
        `{"memkit": "RollingSummarizer", "folded", "tokens"}` or `{…, "failed": reason}`.

    Cost:
        One model call per fold, two if the first reply is too long; none on other turns.
    """

    def __init__(
        self,
        model: BaseChatModel | str | None,
        budget: ContextBudget,
        *,
        summary_key: str = "summary",
        recalled_key: str = "recalled",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_type("budget", budget, ContextBudget)
        self.model = resolve_model(model)
        self.budget = budget
        self.summary_key = summary_key
        self.recalled_key = recalled_key

    @property
    def writes(self) -> tuple[str, ...]:
        """The state keys this node writes."""
        return (self.summary_key, self.memory_key)

    def body(self, visit: Visit) -> Body[Update]:
        """Fold what does not fit; nothing to do on most turns."""
        messages = self.messages(visit)
        summary = checked_summary(visit.read(self.summary_key))
        begin = after(messages, summary["through_id"]) if summary else 0
        end = self._fold_until(visit, messages, begin)
        fold = [m for m in messages[begin:end] if not isinstance(m, SystemMessage)]
        if not fold:
            return {}
        previous = summary["text"] if summary else ""
        try:
            text = yield from self._summarize(visit, previous, fold)
        except GraphBubbleUp:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a model client raises, the turn goes on
            _log.warning("the summary stays as it was: %s", error)
            visit.emit(failed=str(error))
            failures = self.cursor(visit, "summarize").get("failures", 0) + 1
            return self.with_cursor(visit, "summarize", {"failures": failures})
        tokens = self.budget.count_text(text)
        visit.emit(folded=[id_of(messages, i) for i in range(begin, end)], tokens=tokens)
        update = {
            "text": text,
            "through_id": id_of(messages, end - 1),
            "tokens": tokens,
            "updated_at": self.now(messages).isoformat(),
        }
        return {
            self.summary_key: update,
            **self.with_cursor(visit, "summarize", {"failures": 0}),
        }

    def _fold_until(self, visit: Visit, messages: Sequence[BaseMessage], begin: int) -> int:
        """Return where the turns to fold end; `begin` if there is room for all of them."""
        budget = self.budget
        cursor = self.cursor(visit, "trim")
        history = History.read(messages, cursor)
        if history.offset > begin:
            history = History.read(messages)
        shown_anyway = [history.messages[i] for i in history.systems]
        fixed = budget.fixed(shown_anyway) + budget.summary_share + _WRAPPER_TOKENS
        if visit.read(self.recalled_key):
            fixed += min(budget.recall_share, budget.high // 2)
        clear = cleared_until(history.messages, cursor)
        end = fit(history, budget, begin=begin, fixed=fixed, clear=clear).start
        return self._one_call(history.messages, begin, end)

    def _one_call(self, messages: Sequence[BaseMessage], begin: int, end: int) -> int:
        """Return where the fold ends so that it fits one prompt: whole turns, at least one.

        What is left is folded on later turns; after an outage the backlog so never outgrows the
        model's window.
        """
        if self.model is None:
            return end
        size, cut = 0, begin
        for start in [*(i for i in turn_starts(messages) if begin < i < end), end]:
            size += sum(map(self.budget.count_one, messages[cut:start]))
            if size > self.budget.high and cut > begin:
                return cut
            cut = start
        return end

    def _summarize(self, visit: Visit, previous: str, fold: Sequence[BaseMessage]) -> Body[str]:
        limit = self.budget.summary_share
        if self.model is None:
            yield from ()
            return extract_summary(previous, fold, limit, self.budget.count_text)
        config = {
            **visit.config,
            "tags": [*(visit.config.get("tags") or []), _NOSTREAM],
        }
        text = ""
        for strictness in ("", _STRICTER):
            prompt = [
                SystemMessage(
                    # English runs at about 0.75 words a token; the rest is slack.
                    prompts.fill("summarize", words=int(limit * 0.6), strictness=strictness)
                ),
                HumanMessage(
                    f"Record so far:\n{previous or '(none yet)'}\n\nNew turns:\n{transcript(fold)}"
                ),
            ]
            text = checked_reply((yield AskModel(self.model, prompt, config)))  # type: ignore[arg-type]
            if self.budget.count_text(text) <= limit:
                return text
        shorter = cut_sentences(text, limit, self.budget.count_text)
        if not shorter:
            raise UnusableSummary(f"no sentence of it fits {limit} tokens")
        return shorter
