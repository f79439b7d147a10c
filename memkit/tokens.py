"""Exact, cached token counts of messages, texts and tools.

The rules are those of OpenAI's "How to count tokens with tiktoken": 3 tokens for each message, the
role, the content, 1 and the name where there is one, and 3 that prime the reply; tools as
described there for gpt-4o and gpt-4. What it does not describe is counted so that the sum is not
too low: a tool call as its id, its name and its arguments in JSON, and 3; a tool result as its
content and the id of its call; an image by its size, see `images`; and any other part as its JSON.

Source: https://cookbook.openai.com/examples/how_to_count_tokens_with_tiktoken
"""

import hashlib
import json
import marshal
import math
import re
import threading
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeAlias, TypeVar

import tiktoken
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    MessageLikeRepresentation,
    SystemMessage,
    ToolMessage,
    convert_to_messages,
)
from langchain_core.prompt_values import PromptValue

from memkit import encodings
from memkit.errors import ConfigError
from memkit.images import image_tokens, rates_for

T = TypeVar("T")
Key: TypeAlias = tuple[Hashable, ...]

PER_MESSAGE = 3
PER_NAME = 1
PER_REPLY = 3
PER_TOOL_CALL = 3

_ROLES = {"human": "user", "ai": "assistant"}
_CALL_PARTS = frozenset({"tool_use", "tool_call", "tool_call_chunk", "function_call"})
_IMAGE_PARTS = frozenset({"image_url", "image", "input_image"})
_CACHE_ENTRIES = 16_384
_CACHE_CHARACTERS = 8_000_000
_LONG_TEXT = 2_048  # characters; longer ones are remembered by their digest, but not messages
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
    """Return a list of messages: the one given, or made of what LangChain accepts.

    Raises:
        ConfigError: They are no messages.
    """
    if isinstance(given, PromptValue):
        return given.to_messages()
    # All three can be iterated, but not over messages.
    if isinstance(given, str | bytes | Mapping | BaseMessage) or not isinstance(given, Iterable):
        raise ConfigError(f"messages are a list of messages, got {given!r:.200}")
    listed: list[Any] = given if isinstance(given, list) else list(given)
    if all(issubclass(kind, BaseMessage) for kind in set(map(type, listed))):
        return listed
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
        self._encoding = encoding
        kept = encoding.name if encoding else None
        self._texts = _recent(kept)
        self._messages = _recent(kept, rates_for(model))

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
        key = _short(text)
        known = self._texts.young.get((key,))
        return self._texts.remember((key,), text, self._encode) if known is None else known

    def _encode(self, text: str) -> int:
        if self._encoding is None:
            return upper_bound(text)
        encode = self._encoding.encode_ordinary
        if len(text) <= _PIECE:
            return len(encode(text))
        return sum(len(encode(text[i : i + _PIECE])) for i in range(0, len(text), _PIECE))

    def message(self, message: BaseMessage) -> int:
        """Return what one message adds to a prompt."""
        return self.sizes((message,))[0]

    def sizes(self, messages: Iterable[BaseMessage]) -> list[int]:
        """Return what each message adds to a prompt.

        Cost: a fraction of a microsecond for a message that was counted before, here or as another
        object with the same content.
        """
        known = self._messages.young
        sizes = []
        for message in messages:
            # The plain case of `identity`, written out, since it runs for every message of a view.
            fields = message.__dict__
            content = fields["content"]
            given = fields["additional_kwargs"]
            kind = message.__class__
            if (
                content.__class__ is str
                and not fields["name"]
                and not (given and ("function_call" in given or "__openai_role__" in given))
                and (
                    kind is HumanMessage
                    or (
                        kind is AIMessage
                        and not fields["tool_calls"]
                        and not fields["invalid_tool_calls"]
                    )
                )
            ):
                key: Key | None = (kind, content)
            else:
                key = identity(message)
            tokens = None if key is None else known.get(key)
            if tokens is None:
                tokens = self._messages.remember(key, message, self._counted)
            sizes.append(tokens)
        return sizes

    def _counted(self, message: BaseMessage) -> int:
        content = message.content
        tokens = PER_MESSAGE + self.text(_role(message))
        # Remembered as a message, not as a text besides.
        tokens += self._encode(content) if isinstance(content, str) else self._parts(message)
        fields = message.__dict__
        if name := fields.get("name"):
            tokens += PER_NAME + self.text(name)
        if answered := fields.get("tool_call_id"):
            tokens += self.text(answered)
        if message.__class__ is not HumanMessage and isinstance(message, AIMessage):
            tokens += self._calls(message)
        return tokens

    def messages(self, messages: Sequence[BaseMessage]) -> int:
        """Return the tokens of a prompt: its messages, and 3 that prime the reply; 0 if empty."""
        if not messages:
            return 0
        return sum(self.sizes(messages)) + PER_REPLY

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
            except (
                TypeError,
                ValueError,
                LookupError,
                AttributeError,
                NotImplementedError,
            ) as error:
                if isinstance(tool, Mapping):  # of another provider
                    tokens += self._json(tool)
                    continue
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
                tokens += image_tokens(part, self.model)
            elif not (called and kind in _CALL_PARTS):  # counted with the message's tool calls
                tokens += self._json(part)
        return tokens

    def _json(self, value: Any) -> int:
        return self.text(json.dumps(value, ensure_ascii=False, default=str))


@lru_cache(maxsize=256)
def _for_model(model: str) -> TokenCounter:
    return TokenCounter(model, encodings.load(encodings.name_for(model)))


def _role(message: BaseMessage) -> str:
    if message.__class__ not in _PLAIN and isinstance(message, ChatMessage):
        return message.role
    # How langchain-openai marks a developer message.
    if given := message.additional_kwargs:
        role = given.get("__openai_role__")
        if role:
            return str(role)
    return _ROLES.get(message.type, message.type)


def _sentence(text: str | None) -> str:
    return (text or "").removesuffix(".")


# -- what was counted before -------------------------------------------------------------------


class Recent:
    """The counts of recent texts or messages, within bounds.

    Two generations: what is used moves to the young one; when that is full it becomes the old
    one, and the former old one is forgotten. Reading needs no lock.
    """

    def __init__(self) -> None:
        self.young: dict[Key, int] = {}
        self.old: dict[Key, int] = {}
        self._characters = 0
        self._lock = threading.Lock()

    def remember(self, key: Key | None, what: T, count: Callable[[T], int]) -> int:
        """Return the count of a key, counted now where it is not known or there is no key."""
        if key is None:
            return count(what)
        tokens = self.young.get(key)
        if tokens is None:
            tokens = self.old.get(key)
        if tokens is None:
            tokens = count(what)
        characters = 64 + sum(len(part) for part in key if isinstance(part, str | bytes))
        if characters > _CACHE_CHARACTERS // 4:
            return tokens
        with self._lock:
            self._characters += characters
            self.young[key] = tokens
            if len(self.young) >= _CACHE_ENTRIES or self._characters >= _CACHE_CHARACTERS:
                # The young dict is emptied in place, since counting holds on to it.
                self.old = dict(self.young)
                self.young.clear()
                self._characters = 0
        return tokens


_recents: dict[Hashable, Recent] = {}


def _recent(*of: Hashable) -> Recent:
    """Return the one cache of an encoding; that of messages also depends on the price of images."""
    return _recents.setdefault(of, Recent())


def _short(text: str) -> str | bytes:
    """Return a text that is worth keeping as a key, or its digest."""
    if len(text) <= _LONG_TEXT:
        return text
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=20).digest()


_PLAIN = frozenset({HumanMessage, SystemMessage, AIMessage, ToolMessage})


def identity(message: BaseMessage) -> Key | None:
    """Return all that the count of a message depends on, or None where that cannot be told.

    What can be mutated is taken down as bytes, so that a change in place is noticed.
    """
    fields = message.__dict__
    kind = message.__class__
    content = fields["content"]
    other: Hashable = fields.get("tool_call_id")
    try:
        if content.__class__ is not str:
            content = marshal.dumps(content, 0)
        if fields.get("tool_calls") or fields.get("invalid_tool_calls"):
            other = marshal.dumps((fields["tool_calls"], fields["invalid_tool_calls"]), 0)
        given = fields["additional_kwargs"]
        if given and ("function_call" in given or "__openai_role__" in given):
            other = other, marshal.dumps(given, 0)
        if kind not in _PLAIN:
            other = other, _role(message)
    except ValueError:  # an object of a class that bytes cannot tell
        return None
    return kind, content, fields.get("name"), other


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
