"""RollingSummarizer: old turns become a running summary."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from langchain_core.embeddings import Embeddings
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langgraph.errors import GraphBubbleUp

from memkit import prompts
from memkit.budget import ContextBudget
from memkit.effects import AskModel, Body, EmbedTexts
from memkit.errors import ConfigError, kind_of
from memkit.events import SummarizeEvent
from memkit.extractive import candidate_lines, choose_lines
from memkit.history import History
from memkit.messages import call_ids, id_of, position_of, text_of, turn_start_at
from memkit.nodes.base import MemoryNode, Update, Visit, check_type, resolve_model
from memkit.nodes.removal import remover
from memkit.nodes.results import RESULTS_NAMESPACE
from memkit.summary import (
    Part,
    UnusableSummary,
    checked_reply,
    checked_summary,
    covered_until,
    cut_sentences,
    parts,
    place_of,
)
from memkit.view import Notes, fit_view
from memkit.window import fit

_log = logging.getLogger(__name__)
_NOSTREAM = "nostream"  # LangGraph keeps tokens of a call with this tag out of the user's stream
_STRICTER = "- Your last record was too long. Keep only what later turns cannot do without."
_WRAPPER_TOKENS = 32  # the heading of the summary in the view and its message overhead, rounded up
_PROMPT_TOKENS = 600  # the instructions, and the record so far beside its share, rounded up
_LOWEST = 0.75  # of the budget: a fold makes room for several turns
_MOST_EMBEDDED = 400  # lines; on a small machine some seconds of work
_USUAL_WINDOW = 8_000  # tokens; chat models of recent years take more
_USAGE = ("input_tokens", "output_tokens")
_LONGEST_WAIT = 15  # turns without a call, after many failed ones


class RollingSummarizer(MemoryNode):
    """Folds the oldest turns into `summary` once the view would exceed the budget.

    It folds whole turns, never the latest, until the view is down to the low watermark. A reply
    that is empty, cut off, refused or a placeholder, and a call that fails or times out, leave the
    state as it was: the trimmer keeps the view within budget, and the next turn tries again; after
    further failures it waits for 1, 3, 7 and at most 15 turns in between.

    Behind the reply it works ahead: there it folds from `work_ahead` of the budget on, so that
    before the next reply there is nothing to do and nobody waits.

    Args:
        model: A chat model, a name for `init_chat_model`, or None for the extractive form. Give it
            a time-out of its own.
        budget: The budget that the trimmer uses too.
        style: "sections" (who, goals, decisions, open points, preferences) or "text".
        embeddings: For the extractive form: compares sentences by meaning; None, or for a fold of
            more than 400 lines: by their words.
        window_tokens: The most that one call may be sent; a longer fold takes several calls.
            Default: what the model's profile says, else 8,000 or `budget.max_tokens`, whichever is
            more.
        work_ahead: The share of the budget above which it folds behind a reply.
        after_extraction: Fold no turn that FactExtractor has not read, until `backlog_tokens` of
            such turns wait.
        backlog_tokens: The bound of that backlog; default: half of the budget.
        destructive: Also remove folded turns from the history, once extractor and recorder have
            read them.
        results_namespace: Where tool results are put before they go, see `find_tool_result`; None
            to let them go.
        summary_key: The state key of the summary.
        recalled_key: The state key of the recalled memories, if the state has one.
        kwargs: See MemoryNode.

    State:
        Reads messages, summary, recalled, memory; writes `summary` and `memory["summarize"]`:
        `failures` in a row, turns to `wait`, ids that find the place again if the message
        `through_id` is removed, and `usage`, the tokens of all calls of the thread. Removes from
        messages if it is destructive.

    Events:
        SummarizeEvent after a fold, FailedEvent after one that failed, RemoveEvent when messages
        leave the history (memkit.events).

    Raises:
        ConfigError: The summary in the state is malformed; it is destructive, and the state cannot
            remove messages.

    Cost:
        One model call per fold, or more for one that exceeds the model's window, each repeated once
        if the reply is too long; none on other turns.
    """

    def __init__(
        self,
        model: BaseChatModel | str | None,
        budget: ContextBudget,
        *,
        style: Literal["sections", "text"] = "sections",
        embeddings: Embeddings | None = None,
        window_tokens: int | None = None,
        work_ahead: float = 0.8,
        after_extraction: bool = False,
        backlog_tokens: int | None = None,
        destructive: bool = False,
        results_namespace: Sequence[str] | None = RESULTS_NAMESPACE,
        summary_key: str = "summary",
        recalled_key: str = "recalled",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_type("budget", budget, ContextBudget)
        for name, value in (("after_extraction", after_extraction), ("destructive", destructive)):
            check_type(name, value, bool)
        if style not in ("sections", "text"):
            raise ConfigError(f'style is "sections" or "text", got {style!r}')
        if embeddings is not None:
            check_type("embeddings", embeddings, Embeddings)
        if type(work_ahead) not in (int, float) or not 0 < work_ahead <= 1:
            raise ConfigError(f"work_ahead is a share above 0 and up to 1, got {work_ahead!r}")
        self.model = resolve_model(model)
        self.budget = budget
        self.style = style
        self.embeddings = embeddings
        self.work_ahead = work_ahead
        self.after_extraction = after_extraction
        self.backlog_tokens = _tokens("backlog_tokens", backlog_tokens, budget.high // 2)
        profile = getattr(self.model, "profile", None) or {}
        window = profile.get("max_input_tokens") or max(_USUAL_WINDOW, budget.max_tokens)
        self.window_tokens = _tokens("window_tokens", window_tokens, window)
        self.remover = remover(self.messages_key, results_namespace) if destructive else None
        self.summary_key = summary_key
        self.recalled_key = recalled_key

    @property
    def writes(self) -> tuple[str, ...]:
        """The state keys this node writes."""
        return (self.summary_key, self.memory_key)

    def body(self, visit: Visit) -> Body[Update]:
        """Fold what does not fit; nothing to do on most turns."""
        if self.remover is not None:
            self.remover.check(visit)
        summary = checked_summary(visit.read(self.summary_key))
        entry = self.cursor(visit, "summarize")
        if entry and self.remover is None and self._surely_fits(visit):
            return {}
        view = self.cursor(visit, "trim")
        history = History.read(self.messages(visit), view)
        begin = covered_until(history.messages, summary, entry)
        if history.offset > begin:
            history = History.read(history.messages, view, whole=True)
        update: Update = {}
        end = self._fold_until(visit, history, summary, begin)
        waiting = entry.get("wait", 0)
        if end > begin and waiting:
            update = self.with_cursor(visit, "summarize", {**entry, "wait": waiting - 1})
        elif end > begin:
            update = yield from self._fold(visit, history, summary, begin, end)
            folded = update.get(self.summary_key)
            begin = covered_until(history.messages, folded, {}) if folded else begin
        elif not entry:
            # A destructive trimmer is to know that turns are waited for.
            update = self.with_cursor(visit, "summarize", {"failures": 0})
        if self.remover is not None and not entry.get("removes"):
            # Not on its first turn: nodes behind it have not yet said that they read this thread.
            written = update.get(self.memory_key, {}).get("summarize", entry)
            update |= self.with_cursor(visit, "summarize", {**written, "removes": True})
        if self.remover is not None and entry.get("removes"):
            limit = self.read_by_all(visit, history.messages, begin)
            _, removal = yield from self.remover.remove(visit, history, limit, {})
            update |= removal
        return update

    def _surely_fits(self, visit: Visit) -> bool:
        """Return whether the last view, with all that was said since, is below the limit.

        Most turns end here. Where somebody made an old message longer meanwhile, the trimmer cuts
        the view, and the fold comes a turn later.
        """
        messages, view = self.messages(visit), self.cursor(visit, "trim")
        last = position_of(messages, view.get("end_id"))
        if last is None or view["report"]["dropped"]:
            return False
        tokens: int = view["tokens"] + sum(self.budget.sizes(messages[last + 1 :]))
        if visit.read(self.recalled_key):
            tokens += self.budget.recall_limit
        return tokens <= self._high(messages)

    def _high(self, messages: Sequence[BaseMessage]) -> int:
        """Return the limit above which turns are folded: a lower one behind a reply."""
        replied = (
            bool(messages) and isinstance(messages[-1], AIMessage) and not call_ids(messages[-1])
        )
        return int(self.budget.high * self.work_ahead) if replied else self.budget.high

    def _fold_until(
        self, visit: Visit, history: History, summary: Mapping[str, Any] | None, begin: int
    ) -> int:
        """Return where the turns to fold end; `begin` if there is room for all of them."""
        budget, messages = self.budget, history.messages
        high = self._high(messages)
        notes = Notes.of(summary, visit.read(self.recalled_key) or [], budget)
        cursor = self.cursor(visit, "trim")
        found = fit_view(history, budget, notes, begin=begin, cursor=cursor, high=high)
        # What the view has dropped does not come back into it, even if there is room again.
        dropped = max(found.start, history.start)
        if dropped == begin:
            return begin
        # More than the trimmer would drop: the new record may take all of its share, and one call
        # is to fold more than one turn even where the view keeps as much as fits.
        record = budget.summary_limit + _WRAPPER_TOKENS
        fixed = budget.fixed([*(messages[i] for i in history.systems), *notes.facts_messages])
        aim = min(budget.low, int(high * _LOWEST))
        room = fit(
            history,
            budget,
            begin=begin,
            fixed=fixed + record,
            clear=found.clear,
            high=aim,
            low=aim,
        )
        end = max(room.start, dropped)
        if self.after_extraction and end > begin:
            read = self.unread(visit, "extract", messages)
            early = turn_start_at(messages, read) if read < end else end
            waiting = sum(budget.sizes(messages[max(early, begin) : end]))
            if waiting <= self.backlog_tokens:
                return max(begin, early)
        return end

    def _fold(
        self,
        visit: Visit,
        history: History,
        summary: Mapping[str, Any] | None,
        begin: int,
        end: int,
    ) -> Body[Update]:
        """Return the update for a new summary, as far as the calls succeed."""
        messages = history.messages
        entry = self.cursor(visit, "summarize")
        usage: Counter[str] = Counter(entry.get("usage") or {})
        spent: Counter[str] = Counter()
        committed = text = summary["text"] if summary else ""
        done, failure = begin, ""
        for part in self._parts(messages, begin, end):
            try:
                if self.model is None:
                    text = yield from self._choose(text, messages[begin:end], messages[end:])
                elif part.text:
                    text = yield from self._ask(visit, text, part.text, spent)
            except GraphBubbleUp:
                raise
            except Exception as error:  # noqa: BLE001 - whatever a model client raises, the turn goes on
                failure = str(error) if isinstance(error, UnusableSummary) else kind_of(error)
                _log.warning("the summary stays as it was: %s", failure)
                break
            if part.end is not None:
                committed, done = text, part.end
        failures = entry.get("failures", 0) + 1 if failure else 0
        values: dict[str, Any] = {
            **entry,
            "failures": failures,
            "wait": min(2 ** (failures - 1) - 1, _LONGEST_WAIT) if failure else 0,
            "usage": dict(usage + spent),
        }
        update: Update = {}
        if done > begin:
            tokens = self.budget.count_text(committed)
            read = self.unread(visit, "extract", messages) if self.after_extraction else done
            visit.emit(
                SummarizeEvent(
                    memkit="summarize",
                    node=visit.place,
                    folded=[id_of(messages, i) for i in range(begin, done)],
                    tokens_before=summary["tokens"] if summary else 0,
                    tokens=tokens,
                    calls=spent["calls"],
                    usage={name: spent[name] for name in _USAGE if name in spent},
                    unextracted=max(0, done - max(begin, read)),
                )
            )
            update[self.summary_key] = {
                "text": committed,
                "through_id": id_of(messages, done - 1),
                "tokens": tokens,
                "updated_at": self.now(messages).isoformat(),
            }
            values |= place_of(messages, done)
        if failure:
            visit.failed("summary", failure)
        return {**update, **self.with_cursor(visit, "summarize", values)}

    def _parts(self, messages: Sequence[BaseMessage], begin: int, end: int) -> Iterable[Part]:
        if self.model is None:
            return [Part("", end)]
        room = self.window_tokens - _PROMPT_TOKENS - 2 * self.budget.summary_limit
        room = max(room, self.window_tokens // 4)
        return parts(messages, begin, end, room, self.budget.count_text)

    def _choose(
        self, previous: str, fold: Sequence[BaseMessage], later: Sequence[BaseMessage]
    ) -> Body[str]:
        """Return the record without a model: the most telling of its lines and the new ones."""
        lines = candidate_lines(previous, fold)
        vectors = None
        if self.embeddings is not None and 0 < len(lines) <= _MOST_EMBEDDED:
            vectors = yield EmbedTexts(self.embeddings, lines)
        return choose_lines(
            lines,
            vectors=vectors,
            later=[text_of(message) for message in later],
            max_tokens=self.budget.summary_limit,
            count=self.budget.count_text,
        )

    def _ask(self, visit: Visit, previous: str, news: str, spent: Counter[str]) -> Body[str]:
        """Return the record that the model writes; once more, stricter, if it is too long."""
        limit = self.budget.summary_limit
        config = {**visit.config, "tags": [*(visit.config.get("tags") or []), _NOSTREAM]}
        text = ""
        for strictness in ("", _STRICTER):
            prompt = [
                SystemMessage(
                    prompts.fill(
                        "summarize",
                        # English runs at about 0.75 words a token; the rest is slack.
                        words=int(limit * 0.6),
                        form=prompts.fill(f"summarize_{self.style}"),
                        strictness=strictness,
                    )
                ),
                HumanMessage(f"Record so far:\n{previous or '(none yet)'}\n\nNew turns:\n{news}"),
            ]
            reply = yield AskModel(self.model, prompt, config)  # type: ignore[arg-type]
            spent.update({"calls": 1, **_usage(reply)})
            text = checked_reply(reply)
            if self.budget.count_text(text) <= limit:
                return text
        shorter = cut_sentences(text, limit, self.budget.count_text)
        if not shorter:
            raise UnusableSummary(f"no sentence of it fits {limit} tokens")
        return shorter


def _usage(reply: BaseMessage) -> dict[str, int]:
    """Return the tokens that the provider says a call took, if it says so."""
    found = getattr(reply, "usage_metadata", None) or {}
    return {name: found[name] for name in _USAGE if isinstance(found.get(name), int)}


def _tokens(name: str, value: int | None, default: int) -> int:
    if value is None:
        return default
    if type(value) is not int or value <= 0:
        raise ConfigError(f"{name} is a positive number of tokens, got {value!r}")
    return value
