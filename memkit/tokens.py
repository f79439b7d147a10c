"""Exact, cached token counts of messages, texts and tools.

The rules are those of OpenAI's "How to count tokens with tiktoken": 3 tokens for each message, the
role, the content, 1 and the name where there is one, and 3 that prime the reply; tools as
described there for gpt-4o and gpt-4. What it does not describe is counted so that the sum is not
too low: a tool call as its id, its name and its arguments in JSON, and 3; a tool result as its
content and the id of its call; an image by the tile rule, or as the largest image if its size is
unknown; and any other part as its JSON.

Source: https://cookbook.openai.com/examples/how_to_count_tokens_with_tiktoken and, for images,
https://platform.openai.com/docs/guides/images-vision#calculating-costs
"""

import base64
import binascii
import hashlib
import json
import math
import re
import threading
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import tiktoken
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    MessageLikeRepresentation,
    ToolMessage,
    convert_to_messages,
)
from langchain_core.prompt_values import PromptValue

from memkit import encodings
from memkit.errors import ConfigError

PER_MESSAGE = 3
PER_NAME = 1
PER_REPLY = 3
PER_TOOL_CALL = 3

_ROLES = {"human": "user", "ai": "assistant"}
_CALL_PARTS = frozenset({"tool_use", "tool_call", "tool_call_chunk", "function_call"})
_IMAGE_PARTS = frozenset({"image_url", "image", "input_image"})
_MAX_TILES = 8  # 768 x 2048 pixels, the largest after scaling, in tiles of 512

_CACHE_ENTRIES = 16_384
_CACHE_CHARACTERS = 8_000_000
_LONG_TEXT = 2_048  # characters; longer ones are remembered by their digest
# tiktoken's regular expression fails on a single word of a million characters.
_PIECE = 400_000


def count_tokens(
    messages: Iterable[MessageLikeRepresentation] | PromptValue | str, model: str = "gpt-4o"
) -> int:
    """Return the tokens of messages sent as one prompt to a model, or of a text.

    Args:
        messages: Messages, or what LangChain accepts for them; 0 for an empty sequence.
        model: Names the encoding; o200k_base for a name that tiktoken does not know.

    Raises:
        ConfigError: `messages` are no messages, or `model` is no name.

    Example:
        count_tokens([HumanMessage("Where is my order?")])  # 12
    """
    counter = TokenCounter.for_model(model)
    if isinstance(messages, str):
        return counter.text(messages)
    return counter.messages(as_messages(messages))


def as_messages(given: Iterable[MessageLikeRepresentation] | PromptValue) -> list[BaseMessage]:
    """Return a list of messages: those given, the same objects, or made of what LangChain accepts.

    Raises:
        ConfigError: They are no messages.
    """
    if isinstance(given, PromptValue):
        return given.to_messages()
    # All three can be iterated, but not over messages.
    if isinstance(given, str | bytes | Mapping | BaseMessage) or not isinstance(given, Iterable):
        raise ConfigError(f"messages are a list of messages, got {given!r:.200}")
    listed = list(given)
    try:
        return convert_to_messages(listed)
    except (ValueError, TypeError, KeyError, AttributeError, NotImplementedError) as error:
        raise ConfigError(f"cannot read these as messages: {error}") from error


class TokenCounter:
    """Counts the tokens of one model.

    Attributes:
        model: The model's name.
        encoding_name: The encoding of that model.
        exact: Whether texts are counted by the encoding; False if its ranks are not to be had,
            and then every count is an upper bound.
    """

    def __init__(self, model: str, encoding: tiktoken.Encoding | None) -> None:
        self.model = model
        self.encoding_name = encodings.name_for(model)
        self.exact = encoding is not None
        self._texts = _texts_of(encoding)

    @classmethod
    def for_model(cls, model: str = "gpt-4o") -> "TokenCounter":
        """Return the counter of a model; the same one each time.

        Raises:
            ConfigError: `model` is no name.

        Cost: half a second for the first model of an encoding.
        """
        if not isinstance(model, str):
            raise ConfigError(f'model is the name of a model like "gpt-4o", got {model!r}')
        return _for_model(model)

    def __repr__(self) -> str:
        return f"TokenCounter({self.model!r}, {self.encoding_name}, exact={self.exact})"

    def __reduce__(self) -> tuple[Any, ...]:
        return TokenCounter.for_model, (self.model,)

    def text(self, text: str) -> int:
        """Return the tokens of a text; text that looks like a special token is text."""
        return self._texts.count(text)

    def message(self, message: BaseMessage) -> int:
        """Return what one message adds to a prompt."""
        content = message.content
        tokens = PER_MESSAGE + self.text(_role(message))
        tokens += self.text(content) if isinstance(content, str) else self._parts(message)
        if message.name:
            tokens += PER_NAME + self.text(message.name)
        if isinstance(message, ToolMessage):
            tokens += self.text(message.tool_call_id)
        elif isinstance(message, AIMessage):
            tokens += self._calls(message)
        return tokens

    def messages(self, messages: Sequence[BaseMessage]) -> int:
        """Return the tokens of a prompt: its messages, and 3 that prime the reply; 0 if empty."""
        if not messages:
            return 0
        return sum(map(self.message, messages)) + PER_REPLY

    def tools(self, tools: Sequence[Any]) -> int:
        """Return the tokens of tools bound to the model.

        Args:
            tools: LangChain tools, functions, pydantic classes or OpenAI's dicts.

        Raises:
            ConfigError: One of them cannot be described to a model.
        """
        from langchain_core.utils.function_calling import convert_to_openai_tool

        tokens = 0
        for tool in tools:
            try:
                described = convert_to_openai_tool(tool)
            except (TypeError, ValueError, NotImplementedError) as error:
                raise ConfigError(f"cannot count the tokens of tool {tool!r}: {error}") from error
            function = described.get("function")
            if function is None:  # built into the provider
                tokens += self._json(described)
                continue
            tokens += 10 if self.encoding_name == "cl100k_base" else 7
            name = function.get("name") if isinstance(function, Mapping) else None
            if not isinstance(name, str):
                raise ConfigError(f"cannot count the tokens of tool {tool!r}: it has no name")
            tokens += self.text(f"{name}:{_sentence(function.get('description'))}")
            tokens += self._properties(function.get("parameters") or {})
        return tokens + 12 if tokens else 0

    def _properties(self, schema: Mapping[str, Any]) -> int:
        properties = schema.get("properties") or {}
        tokens = 3 if properties else 0
        for name, given in properties.items():
            described = given if isinstance(given, Mapping) else {}
            kind = described.get("type", "")
            kind = kind if isinstance(kind, str) else "|".join(map(str, kind))
            tokens += 3 + self.text(f"{name}:{kind}:{_sentence(described.get('description'))}")
            if options := described.get("enum"):
                tokens += -3 + sum(3 + self.text(str(option)) for option in options)
            # Beyond the cookbook, which describes flat parameters only.
            tokens += self._properties(described)
            known = {"type", "description", "enum", "properties", "required", "title", "default"}
            if rest := {key: value for key, value in described.items() if key not in known}:
                tokens += self._json(rest)
        if definitions := schema.get("$defs"):
            tokens += self._json(definitions)
        return tokens

    def _calls(self, message: AIMessage) -> int:
        tokens = 0
        for call in message.tool_calls:
            tokens += PER_TOOL_CALL + self.text(call["name"]) + self._json(call["args"])
            tokens += self.text(call["id"] or "")
        for bad in message.invalid_tool_calls:
            tokens += PER_TOOL_CALL
            tokens += sum(self.text(bad[key] or "") for key in ("id", "name", "args"))
        if (old := message.additional_kwargs.get("function_call")) and not message.tool_calls:
            tokens += PER_TOOL_CALL + self._json(old)
        return tokens

    def _parts(self, message: BaseMessage) -> int:
        called = isinstance(message, AIMessage) and bool(
            message.tool_calls or message.invalid_tool_calls
        )
        tokens = 0
        for part in message.content:
            if isinstance(part, str):
                tokens += self.text(part)
                continue
            kind = part.get("type")
            if kind in ("text", "input_text", "output_text") and isinstance(part.get("text"), str):
                tokens += self.text(part["text"])
            elif kind in _IMAGE_PARTS:
                tokens += self._image(part)
            elif not (called and kind in _CALL_PARTS):  # counted with the message's tool calls
                tokens += self._json(part)
        return tokens

    def _image(self, part: Mapping[str, Any]) -> int:
        base, tile = (2833, 5667) if self.model.startswith("gpt-4o-mini") else (85, 170)
        inner = part.get("image_url")
        fields = inner if isinstance(inner, Mapping) else part
        if fields.get("detail") == "low":
            return base
        nested = fields.get("source")
        source = nested if isinstance(nested, Mapping) else fields
        data = next(
            (
                value
                for value in (inner, *(source.get(key) for key in ("url", "data", "base64")))
                if isinstance(value, str)
            ),
            "",
        )
        size = _pixels(data)
        return base + tile * (_tiles(*size) if size else _MAX_TILES)

    def _json(self, value: Any) -> int:
        return self.text(json.dumps(value, ensure_ascii=False, default=str))


@lru_cache(maxsize=256)
def _for_model(model: str) -> TokenCounter:
    return TokenCounter(model, encodings.load(encodings.name_for(model)))


def _role(message: BaseMessage) -> str:
    if isinstance(message, ChatMessage):
        return message.role
    # How langchain-openai marks a developer message.
    if role := message.additional_kwargs.get("__openai_role__"):
        return str(role)
    return _ROLES.get(message.type, message.type)


def _sentence(text: str | None) -> str:
    return (text or "").removesuffix(".")


# -- texts -------------------------------------------------------------------------------------


class _Texts:
    """Counts texts and remembers the counts of recent ones, within bounds.

    Two generations: what is used moves to the young one; when that is full it becomes the old
    one, and the former old one is forgotten. Reading needs no lock.
    """

    def __init__(self, encoding: tiktoken.Encoding | None) -> None:
        self._encoding = encoding
        self._young: dict[str | bytes, int] = {}
        self._old: dict[str | bytes, int] = {}
        self._characters = 0
        self._lock = threading.Lock()

    def count(self, text: str) -> int:
        key: str | bytes = text
        if len(text) > _LONG_TEXT:
            key = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=20).digest()
        tokens = self._young.get(key)
        if tokens is not None:
            return tokens
        tokens = self._old.get(key)
        if tokens is None:
            tokens = self._measure(text)
        with self._lock:
            self._young[key] = tokens
            self._characters += len(key)
            if len(self._young) >= _CACHE_ENTRIES or self._characters >= _CACHE_CHARACTERS:
                self._old, self._young, self._characters = self._young, {}, 0
        return tokens

    def _measure(self, text: str) -> int:
        if self._encoding is None:
            return upper_bound(text)
        pieces = (text[i : i + _PIECE] for i in range(0, len(text), _PIECE))
        return sum(len(self._encoding.encode_ordinary(piece)) for piece in pieces)


_texts: dict[str | None, _Texts] = {}


def _texts_of(encoding: tiktoken.Encoding | None) -> _Texts:
    """Return the one cache of an encoding, shared by all models that use it."""
    return _texts.setdefault(encoding.name if encoding else None, _Texts(encoding))


# A space goes with the word behind it, as in tiktoken's patterns.
_PIECES = re.compile(
    r"(?P<spaced>(?: |(?<!\S))[A-Z]?[a-z]+(?![A-Za-z0-9_]))"
    r"|(?P<letters>[A-Z]?[a-z]+)"
    r"|(?P<east>[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7a3]+)"
    r"|(?P<cyrillic> ?[\u0410-\u044f]+)"
    r"|(?P<digits>[0-9]{1,3})"
    r"|(?P<spaces>[ ]+|\n+)"
    r"|(?P<other>.)",
    re.DOTALL,
)
_CONSONANTS = re.compile(r"[^aeiou ]{4}|^ ?[^aeiou ]+$", re.IGNORECASE)


def upper_bound(text: str) -> int:
    """Return a number of tokens that no text of words, numbers and code exceeds.

    A third of the UTF-8 bytes is enough for prose, but too low for numbers, ids and code, and for
    many languages. So it is taken for plain words of ASCII letters alone, half of the bytes for
    letters inside of identifiers and for Cyrillic, Chinese, Japanese and Korean, one token for
    three digits, and for everything else a token for each byte, which no encoding exceeds. Only
    letters that form no word of any language can still take more.

    Returns:
        About twice the tokens of English prose.
    """
    tokens = 0
    for piece in _PIECES.finditer(text):
        found = piece[0]
        size = len(found.encode("utf-8", "surrogatepass"))
        match piece.lastgroup:
            case "spaced" | "letters" if _CONSONANTS.search(found):
                tokens += size
            case "spaced":
                # A word at the start of a line lacks the space that makes it one token.
                tokens += math.ceil(size / 3) + (found[0] != " ")
            case "letters" | "east" | "cyrillic":
                tokens += 1 + size // 2
            case "digits":
                tokens += 1
            case "spaces":
                tokens += min(size, 2 + size // 4)
            case _:
                tokens += size
    return tokens


# -- images ------------------------------------------------------------------------------------


def _tiles(width: int, height: int) -> int:
    """Return the tiles of 512 pixels after scaling into 2048 x 2048 and the short side to 768."""
    scale = min(1.0, 2048 / max(width, height))
    scale *= min(1.0, 768 / (min(width, height) * scale))
    return math.ceil(round(width * scale) / 512) * math.ceil(round(height * scale) / 512)


def _pixels(source: str) -> tuple[int, int] | None:
    """Return width and height of a PNG or JPEG given as a data: URL or in base64, if it is one."""
    if source.startswith("data:"):
        source = source.partition(",")[2]
    elif "://" in source[:20]:
        return None
    try:
        start = base64.b64decode(source[: 1 << 18])  # beyond large EXIF and colour profiles
    except (binascii.Error, ValueError):
        return None
    size: tuple[int, int] | None = None
    if start.startswith(b"\x89PNG\r\n\x1a\n") and len(start) >= 24:
        size = int.from_bytes(start[16:20]), int.from_bytes(start[20:24])
    elif start.startswith(b"\xff\xd8"):
        size = _jpeg_pixels(start)
    return size if size and min(size) > 0 else None


def _jpeg_pixels(start: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 9 < len(start) and start[at] == 0xFF:
        marker = start[at + 1]
        if marker in range(0xC0, 0xD0) and marker not in (0xC4, 0xC8, 0xCC):  # start of frame
            return int.from_bytes(start[at + 7 : at + 9]), int.from_bytes(start[at + 5 : at + 7])
        at += 2 + int.from_bytes(start[at + 2 : at + 4])
    return None
