"""The running summary: what may be committed, its size, and a form that needs no model. Pure."""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence

from langchain_core.messages import BaseMessage, HumanMessage, ToolMessage

from memkit.messages import speaker_of, text_of
from memkit.words import content_words, sentences

_REFUSAL = re.compile(
    r"^\W*(?:i['’]?m sorry|i am sorry|sorry,? but|i can(?:['’]?t|not)\b|i['’]?m unable|as an ai\b)",
    re.IGNORECASE,
)
_PLACEHOLDER = re.compile(
    r"^\W{0,8}(?:n/?a|none|null|todo|tbd|summary"
    r"|no (?:new )?(?:summary|information|content)\b.{0,40}"
    r"|\[.{0,60}\]|<.{0,60}>|(?:internal |server )*error\b[^\n]{0,40})\W{0,8}$",
    re.IGNORECASE | re.DOTALL,
)
# Finish reasons of the providers that mean the text is not whole.
_CUT_OFF = {"length", "max_tokens", "max_output_tokens", "model_length", "incomplete"}
_WITHHELD = {"content_filter", "safety", "refusal", "recitation", "blocklist", "prohibited_content"}
_CALLING = {"tool_calls", "tool_use", "function_call", "malformed_function_call"}
_THINKING = re.compile(r"<think>.*?</think>", re.DOTALL | re.IGNORECASE)
_SPECIFIC = re.compile(r"\d|[$€£%@]|\b[A-Z][\w'’-]+(?<!\bI)")


class UnusableSummary(Exception):
    """A model's reply that must not become the summary; the message says why."""


def checked_reply(reply: BaseMessage) -> str:
    """Return the text of a model's reply if it may become the summary.

    Raises:
        UnusableSummary: It is empty, cut off, filtered, a refusal or a placeholder.
    """
    text = _THINKING.sub("", text_of(reply)).strip()
    meta = reply.response_metadata
    reason = meta.get("finish_reason") or meta.get("stop_reason") or meta.get("done_reason")
    if str(reason or "").lower().removeprefix("finish_reason_") in _CUT_OFF | _WITHHELD | _CALLING:
        raise UnusableSummary(f"the model stopped early ({reason})")
    if not text:
        raise UnusableSummary("the model returned no text")
    if reply.additional_kwargs.get("refusal") or _REFUSAL.search(text):
        raise UnusableSummary(f"the model refused: {text[:80]!r}")
    if not any(map(str.isalnum, text)) or _PLACEHOLDER.match(text):
        raise UnusableSummary(f"the model returned a placeholder: {text[:80]!r}")
    return text


def cut_sentences(text: str, max_tokens: int, count: Callable[[str], int]) -> str:
    """Return the first whole sentences of a text that fit, "" if not even one does."""
    kept: list[str] = []
    for sentence in sentences(text):
        if count(" ".join([*kept, sentence])) > max_tokens:
            break
        kept.append(sentence)
    return " ".join(kept)


def transcript(messages: Sequence[BaseMessage]) -> str:
    """Return messages as lines `speaker: text`; tool results are named as such."""
    lines = []
    for message in messages:
        text = text_of(message).strip()
        if isinstance(message, ToolMessage):
            lines.append(f"tool {message.name or 'result'}: {text[:2000]}")
        elif text:
            lines.append(f"{speaker_of(message)}: {text}")
    return "\n".join(lines)


def extract_summary(
    previous: str,
    messages: Sequence[BaseMessage],
    max_tokens: int,
    count: Callable[[str], int],
) -> str:
    """Return the most telling sentences of a record and the turns after it, in their order.

    A sentence counts by the rare words in it, by names, numbers and dates, and by who said it (what
    a person says outweighs the reply). Questions and small talk go first. Every line of the result
    is a sentence that was said, with its speaker, so that folding it again works the same way.

    Args:
        previous: The record so far, as this function returned it; "" at the start.
        messages: The turns to fold in.
        max_tokens: The most tokens of the result.
        count: Tokens of a text.
    """
    lines = [line for line in previous.splitlines() if line.strip()]
    for message in messages:
        if not isinstance(message, ToolMessage):
            who = speaker_of(message)
            human = isinstance(message, HumanMessage)
            lines.extend(
                f"{who}: {s}" if human or who != "assistant" else f"assistant: {s}"
                for s in sentences(text_of(message))
            )
    lines = list(dict.fromkeys(lines))
    frequency = Counter(word for line in lines for word in content_words(line))

    def value(line: str) -> float:
        said = line.partition(": ")[2] or line
        found = content_words(said)
        rarity = sum(1 / math.sqrt(frequency[w]) for w in found if w in frequency)
        specific = len(_SPECIFIC.findall(said[1:]))
        score = rarity + 1.5 * min(specific, 6)
        if said.endswith("?"):
            score *= 0.3
        if line.startswith("assistant: "):
            score *= 0.5
        # Long sentences would otherwise win by length alone.
        return score / math.sqrt(len(found) + 3)

    ranked = sorted(range(len(lines)), key=lambda i: (-value(lines[i]), -i))
    sizes = [count(line) + 1 for line in lines]
    kept: set[int] = set()
    left = max_tokens
    for i in ranked:
        if sizes[i] <= left:
            kept.add(i)
            left -= sizes[i]
    return "\n".join(lines[i] for i in sorted(kept))
