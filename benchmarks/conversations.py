"""Generated conversations: the same ones for the benchmarks and for the property tests.

Everything is drawn from a seed. A conversation of some turns begins with the conversation of fewer
turns and the same seed, so that a failing example gets smaller when `turns` does.

`conversation` is valid input for every provider. `with_orphans` damages its tool traffic, as lost
updates, retries and hand-edited histories do, and nothing else.
"""

import base64
import struct
import zlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from random import Random
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolCall,
    ToolMessage,
)

Content = str | list[str | dict[str, Any]]

_PHRASES = (
    "Where is my order?",
    "I moved to 14 Linden Street in Leeds last week.",
    "Please send the invoice again, the last one had the wrong name on it.",
    "The parcel is in Rotterdam and should be with you by Thursday.",
    "Können Sie die Lieferung auf nächste Woche verschieben? Ich bin verreist.",
    "¿Cuánto cuesta el envío a Málaga?",
    "Доставка задерживается на два дня.",
    "请问我的包裹什么时候到？",
    "配送先の住所を変更したいのですが。",
    "주문을 취소하고 싶어요.",
    "متى يصل الطلب؟",
    "Great, thanks! 🎉🙂",
    "👩‍👩‍👧 we are three, so make it a large one 🍕",
    "def total(items):\n    return sum(i.price for i in items)\n",
    "| item | price |\n|------|-------|\n| lamp | 12.50 |",
    "Order 4711-0815, tracking 1Z999AA10123456784, 2 of 3 items.",
    "   \n\t ",
)
_TOOLS = ("find_order", "search", "read_file", "get_weather", "run_sql")
_PEOPLE = ("Ute", "ben_k", "Kim-Lee")
_START = datetime(2026, 1, 5, 9, tzinfo=UTC)
_PICTURES = ((32, 32), (512, 512), (1024, 600), (300, 2000))


def conversation(seed: int, turns: int) -> list[BaseMessage]:
    """Return a valid conversation with tools, pictures, odd texts and several system messages.

    Args:
        seed: What all choices start from.
        turns: How many human messages it has, each with what follows it.
    """
    messages = _head(Random(f"{seed}:head"))  # noqa: S311 - reproducible, not secret
    for turn in range(turns):
        messages += _turn(Random(f"{seed}:{turn}"), turn)  # noqa: S311
    return messages


def with_orphans(messages: Sequence[BaseMessage], seed: int) -> list[BaseMessage]:
    """Return a conversation with damaged tool traffic.

    One to four times a result is lost, a call is lost, a result comes twice (with an id of its
    own), or a result stands before its call. Human and system messages stay as they are; without
    tool traffic the conversation comes back unchanged.
    """
    rng = Random(f"{seed}:orphans")  # noqa: S311
    damaged = list(messages)
    for n in range(rng.randint(1, 4)):
        results = [i for i, m in enumerate(damaged) if isinstance(m, ToolMessage)]
        calls = [i for i, m in enumerate(damaged) if isinstance(m, AIMessage) and m.tool_calls]
        match rng.choice(("lose result", "lose call", "double", "before its call")):
            case "lose result" if results:
                del damaged[rng.choice(results)]
            case "lose call" if calls:
                del damaged[rng.choice(calls)]
            case "double" if results:
                i = rng.choice(results)
                again = damaged[i].model_copy(update={"id": f"again-{n}"})
                # Right behind the first one, or later, where its call is closed.
                damaged.insert(rng.choice((i + 1, rng.randint(i + 1, len(damaged)))), again)
            case "before its call" if results:
                i = rng.choice(results)
                result = damaged[i]
                assert isinstance(result, ToolMessage)
                owner = [c for c in calls if c < i and _has_call(damaged[c], result.tool_call_id)]
                if owner:
                    del damaged[i]
                    damaged.insert(owner[-1], result)
            case _:
                pass
    return damaged


def model_calls(messages: Sequence[BaseMessage]) -> Iterator[list[BaseMessage]]:
    """Yield the prefixes at which a model is called.

    They end with a human message, or with the last result that an AI message waits for.
    """
    waiting: set[str] = set()
    for i, message in enumerate(messages):
        if isinstance(message, HumanMessage):
            waiting = set()
            yield list(messages[: i + 1])
        elif isinstance(message, AIMessage):
            waiting = {call["id"] or "" for call in message.tool_calls}
        elif isinstance(message, ToolMessage) and message.tool_call_id in waiting:
            waiting.discard(message.tool_call_id)
            if not waiting:
                yield list(messages[: i + 1])


_VOCABULARY = (
    "about account address again already amount answer arrived available back balance before bill "
    "blue box branch button card carrier change check city code colour confirm contact copy "
    "corner cover credit customer damaged date delay deliver delivery different discount door "
    "driver email empty error evening exchange expected family field file first floor form found "
    "friend garden green hallway handle heavy house inside invoice item kitchen ladder lamp large "
    "later letter light list lost mail maybe message missing money morning mother move neighbour "
    "never next notice number office open option order other package paid parcel part payment "
    "phone photo picture piece please point postal price printed problem product promise question "
    "quick ready reason receipt receive refund repair replace reply return right room route screen "
    "second send service shelf shipped shop side sign silver size small sorry spare start station "
    "still stock store street summer support system table team thank today together tomorrow total "
    "tracking truck under update upstairs usual value visit voucher wait warehouse warranty week "
    "white window wooden working wrong yellow yesterday"
)
_WORDS = _VOCABULARY.split()


def chat(messages: int, seed: int = 0, words: int = 33) -> list[BaseMessage]:
    """Return a support chat of so many messages, of about 40 tokens each, whose texts differ.

    It begins with a system message; people and the assistant take turns. A shorter one with the
    same seed is its prefix.

    Args:
        messages: How many, with the system message.
        seed: Another seed gives other texts.
        words: The words of a message.
    """
    rng = Random(f"{seed}:chat")  # noqa: S311
    said: list[BaseMessage] = []
    for n in range(messages):
        drawn = rng.choices(_WORDS, k=words)
        drawn[words // 2] += "."
        drawn[-1] = f"{rng.randint(1000, 9999)}?" if n % 2 else f"{drawn[-1]}."
        text = " ".join(drawn).capitalize()
        if n == 0:
            said.append(SystemMessage(f"You help customers of a shop. {text}", id=f"{seed}-0"))
        elif n % 2:
            said.append(HumanMessage(text, id=f"{seed}-{n}"))
        else:
            said.append(AIMessage(text, id=f"{seed}-{n}"))
    return said


def errands(turns: int, seed: int = 0) -> list[BaseMessage]:
    """Return a support chat in which the assistant uses tools in about every third turn.

    A turn without tools takes about 100 tokens, one with tools about 300.
    """
    rng = Random(f"{seed}:errands")  # noqa: S311

    def words(least: int, most: int) -> str:
        return " ".join(rng.choices(_WORDS, k=rng.randint(least, most))).capitalize() + "."

    said: list[BaseMessage] = [SystemMessage(f"You help customers. {words(80, 80)}", id="system")]
    for turn in range(turns):
        said.append(HumanMessage(words(10, 60), id=f"e{turn}-human"))
        if rng.random() < 0.35:
            calls = [
                ToolCall(name=rng.choice(_TOOLS), args={"query": words(1, 6)}, id=f"e{turn}-{n}")
                for n in range(rng.choice((1, 1, 2)))
            ]
            said.append(AIMessage("", tool_calls=calls, id=f"e{turn}-calls"))
            said += [
                ToolMessage(words(20, 200), tool_call_id=c["id"], id=f"{c['id']}-result")
                for c in calls
            ]
        said.append(AIMessage(words(20, 100), id=f"e{turn}-reply"))
    return said


# -- what a conversation is drawn of -----------------------------------------------------------


def _head(rng: Random) -> list[BaseMessage]:
    count = rng.choice((0, 1, 1, 1, 2, 3))
    return [SystemMessage(_text(rng, most=400), id=f"s{n}") for n in range(count)]


def _turn(rng: Random, turn: int) -> list[BaseMessage]:
    def common(name: str, *names: str) -> dict[str, Any]:
        fields: dict[str, Any] = {"id": f"t{turn}-{name}"}
        if rng.random() < 0.2:
            said_at = _START + timedelta(hours=turn, seconds=len(messages))
            fields["additional_kwargs"] = {"timestamp": said_at.isoformat()}
        if names and rng.random() < 0.2:
            fields["name"] = rng.choice(names)
        return fields

    messages: list[BaseMessage] = []
    if turn and rng.random() < 0.05:
        messages.append(SystemMessage(_text(rng, most=150), **common("system")))
    messages.append(HumanMessage(_human_content(rng), **common("human", *_PEOPLE)))
    for group in range(rng.choice((0, 0, 0, 0, 1, 1, 1, 2, 2, 3))):
        calls = [_call(rng) for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4)))]
        thought = "" if rng.random() < 0.6 else _text(rng, most=200)
        messages.append(AIMessage(thought, tool_calls=calls, **common(f"calls-{group}")))
        order = list(enumerate(calls))
        rng.shuffle(order)
        for n, call in order:
            fields = common(f"result-{group}-{n}", call["name"])
            found = _result_content(rng)
            messages.append(ToolMessage(found, tool_call_id=call["id"], **fields))
    if rng.random() < 0.88:
        parts = rng.random() < 0.1
        text = _text(rng, most=2_000)
        content: Content = [{"type": "text", "text": text}] if parts else text
        messages.append(AIMessage(content, **common("reply", "helper")))
    return messages


def _text(rng: Random, most: int) -> str:
    """Return a text of none to about `most` characters; most texts are short."""
    if rng.random() < 0.07:
        return ""
    size = int(most * rng.random() ** 4)
    text = rng.choice(_PHRASES)
    while len(text) < size:
        text += " " + rng.choice(_PHRASES)
    return text


def _human_content(rng: Random) -> Content:
    text = _text(rng, most=3_000)
    drawn = rng.random()
    if drawn < 0.88:
        return text
    parts: list[str | dict[str, Any]] = [{"type": "text", "text": text}]
    if drawn < 0.94:
        picture: dict[str, Any] = {"url": _png(*rng.choice(_PICTURES))}
        if rng.random() < 0.5:
            picture["detail"] = rng.choice(("low", "high", "auto"))
        parts.append({"type": "image_url", "image_url": picture})
    if rng.random() < 0.5:
        parts.append({"type": "text", "text": _text(rng, most=100)})
    return parts


def _result_content(rng: Random) -> Content:
    drawn = rng.random()
    if drawn < 0.08:
        return ""
    if drawn < 0.12:  # giant
        size = rng.randint(2_000, 8_000)
        rows = [f'{{"id": {rng.randint(1, 10**6)}, "note": "{rng.choice(_WORDS)}"}}']
        while len(rows) * 35 < size:
            rows.append(f'{{"id": {rng.randint(1, 10**6)}, "note": "{rng.choice(_WORDS)}"}}')
        return "[" + ",\n".join(rows) + "]"
    if drawn < 0.2:
        return [{"type": "text", "text": _text(rng, most=300)} for _ in range(rng.randint(1, 3))]
    return _text(rng, most=800)


def _call(rng: Random) -> ToolCall:
    args: dict[str, Any] = {"query": _text(rng, most=120)}
    if rng.random() < 0.3:
        args["options"] = {"limit": rng.randint(1, 50), "fields": rng.sample(_WORDS, 2)}
    return ToolCall(name=rng.choice(_TOOLS), args=args, id=f"call_{rng.getrandbits(64):016x}")


@lru_cache(maxsize=len(_PICTURES))
def _png(width: int, height: int) -> str:
    """Return a black picture as a data URL."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    rows = (b"\0" + bytes((width + 7) // 8)) * height  # one bit a pixel, and a filter byte a row
    file = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(rows, 9))
        + chunk(b"IEND", b"")
    )
    return "data:image/png;base64," + base64.b64encode(file).decode()


def _has_call(message: BaseMessage, call_id: str) -> bool:
    return isinstance(message, AIMessage) and call_id in {c["id"] for c in message.tool_calls}
