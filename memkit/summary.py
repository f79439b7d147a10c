"""The running summary: what it covers, what a call folds, what may be committed. Pure."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import BaseMessage, SystemMessage, ToolMessage

from memkit.errors import ConfigError
from memkit.messages import (
    after,
    id_of,
    ids_before,
    position_of,
    speaker_of,
    text_of,
    turn_starts,
)
from memkit.words import sentences

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


class UnusableSummary(Exception):
    """A model's reply that must not become the summary; the message says why without quoting it."""


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
        raise UnusableSummary("the model refused")
    if not any(map(str.isalnum, text)) or _PLACEHOLDER.match(text):
        raise UnusableSummary("the model returned a placeholder")
    return text


def checked_summary(summary: object) -> Mapping[str, Any] | None:
    """Return the summary of a state; None for one that is unset or empty.

    Raises:
        ConfigError: It is not what RollingSummarizer writes.
    """
    if not summary:
        return None
    if (
        not isinstance(summary, Mapping)
        or not isinstance(summary.get("text"), str)
        or not isinstance(summary.get("through_id"), str)
    ):
        raise ConfigError(
            'a summary is a mapping {"text": "…", "through_id": id of the last message it covers}, '
            f"got {summary!r:.200}"
        )
    return summary


def covered_until(
    messages: Sequence[BaseMessage],
    summary: Mapping[str, Any] | None,
    place: Mapping[str, Any],
) -> int:
    """Return the position before which a summary stands for the messages.

    Where its last message is gone, the first message that it does not cover marks the place, or
    the last one of a few before. If none of them is left, neither is anything that it covers: what
    is removed from a history goes from its beginning.

    Args:
        messages: The whole history.
        summary: The summary of the state.
        place: What `place_of` returned when it was written.
    """
    if not summary:
        return 0
    end = after(messages, summary["through_id"])
    if not end:
        next_one = position_of(messages, place.get("next_id"))
        end = after(messages, None, place.get("recent")) if next_one is None else next_one
    return end


def place_of(messages: Sequence[BaseMessage], end: int) -> dict[str, Any]:
    """Return ids around the end of what a summary covers, to find the place again."""
    return {
        "next_id": id_of(messages, end) if end < len(messages) else None,
        "recent": ids_before(messages, end),
    }


def cut_sentences(text: str, max_tokens: int, count: Callable[[str], int]) -> str:
    """Return the first whole sentences of a text that fit, "" if not even one does."""
    kept: list[str] = []
    for sentence in sentences(text):
        if count(" ".join([*kept, sentence])) > max_tokens:
            break
        kept.append(sentence)
    return " ".join(kept)


@dataclass(frozen=True, slots=True)
class Part:
    """What one model call folds: some text, and where the turns end that it completes, if any."""

    text: str
    end: int | None


def parts(
    messages: Sequence[BaseMessage],
    begin: int,
    end: int,
    room: int,
    count: Callable[[str], int],
) -> list[Part]:
    """Divide the turns of a fold into calls: as many whole turns as fit, a giant one in pieces.

    Args:
        messages: The whole history.
        begin: The first message to fold.
        end: The start of the first turn that is not folded.
        room: The most tokens of one call's turns.
        count: Tokens of a text.
    """
    found: list[Part] = []
    text, size, at = "", 0, begin
    for stop in [*(i for i in turn_starts(messages[:end], begin + 1)), end]:
        turn = transcript(messages[at:stop])
        tokens = count(turn) + 1
        if text and size + tokens > room:
            found.append(Part(text, at))
            text, size = "", 0
        if tokens > room:
            *chunks, turn = _pieces(turn, room, count)
            found += [Part(chunk, None) for chunk in chunks]
            tokens = count(turn) + 1
        text, size, at = f"{text}\n{turn}".strip(), size + tokens, stop
    return [*found, Part(text, end)]


def _pieces(text: str, room: int, count: Callable[[str], int]) -> list[str]:
    """Cut a text where a line, a sentence or a word ends, so that each piece fits."""
    if len(text) < 2 or count(text) <= room:
        return [text]
    middle = len(text) // 2
    for mark in ("\n", ". ", " "):
        cut = text.rfind(mark, len(text) // 4, middle) + len(mark)
        if cut >= len(mark):
            break
    else:
        cut = middle
    return [*_pieces(text[:cut], room, count), *_pieces(text[cut:], room, count)]


def transcript(messages: Sequence[BaseMessage]) -> str:
    """Return messages as lines `speaker: text`; tool results are named as such."""
    lines = []
    for message in messages:
        text = " ".join([text_of(message).strip(), *_pictures(message)]).strip()
        if isinstance(message, SystemMessage):  # stays in the view
            continue
        if isinstance(message, ToolMessage):
            lines.append(f"tool {message.name or 'result'}: {text[:2000]}")
        elif text:
            lines.append(f"{speaker_of(message)}: {text}")
    return "\n".join(lines)


def _pictures(message: BaseMessage) -> list[str]:
    """Return a word for each part of a message that is an image: a record should mention it."""
    kinds = [part.get("type") for part in message.content if isinstance(part, dict)]
    return ["[image]" for kind in kinds if kind in ("image", "image_url", "input_image")]
