"""Token counts: the published examples, everything a message may hold, and no ranks at all."""

import base64
import copy
import hashlib
import pickle
import socket
import struct
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.tools import tool
from pydantic import BaseModel, Field
from tiktoken.load import read_file_cached

from memkit import encodings, tokens
from memkit.errors import ConfigError
from memkit.tokens import TokenCounter, count_tokens, upper_bound

# The worked examples of the cookbook, with the counts that the API returned.
CHAT: list[BaseMessage] = [
    SystemMessage(
        "You are a helpful, pattern-following assistant that translates corporate jargon into "
        "plain English."
    ),
    SystemMessage("New synergies will help drive top-line growth.", name="example_user"),
    SystemMessage("Things working well together will increase revenue.", name="example_assistant"),
    SystemMessage(
        "Let's circle back when we have more bandwidth to touch base on opportunities for "
        "increased leverage.",
        name="example_user",
    ),
    SystemMessage(
        "Let's talk later when we're less busy about how to do better.", name="example_assistant"
    ),
    HumanMessage(
        "This late pivot means we don't have time to boil the ocean for the client deliverable."
    ),
]
WEATHER: list[BaseMessage] = [
    SystemMessage("You are a helpful assistant that can answer to questions about the weather."),
    HumanMessage("What's the weather like in San Francisco?"),
]
WEATHER_TOOL = {
    "type": "function",
    "function": {
        "name": "get_current_weather",
        "description": "Get the current weather in a given location",
        "parameters": {
            "type": "object",
            "properties": {
                "location": {
                    "type": "string",
                    "description": "The city and state, e.g. San Francisco, CA",
                },
                "unit": {
                    "type": "string",
                    "description": "The unit of temperature to return",
                    "enum": ["celsius", "fahrenheit"],
                },
            },
            "required": ["location"],
        },
    },
}


@pytest.fixture(scope="module")
def counter() -> TokenCounter:
    counter = TokenCounter.for_model("gpt-4o")
    assert counter.exact
    return counter


@pytest.mark.parametrize(("model", "expected"), [("gpt-4o", 124), ("gpt-4", 129)])
def test_the_published_chat(model: str, expected: int) -> None:
    assert count_tokens(CHAT, model) == expected


@pytest.mark.parametrize(("model", "expected"), [("gpt-4o", 101), ("gpt-4", 105)])
def test_the_published_tool(model: str, expected: int) -> None:
    counter = TokenCounter.for_model(model)
    assert counter.messages(WEATHER) + counter.tools([WEATHER_TOOL]) == expected


def test_messages_add_up(counter: TokenCounter) -> None:
    assert counter.messages(CHAT) == sum(counter.message(m) for m in CHAT) + 3
    assert counter.messages([]) == count_tokens([]) == 0


def test_what_langchain_takes_for_messages() -> None:
    given: list[Any] = [("system", "Be brief."), {"role": "user", "content": "Hi"}]
    assert count_tokens(given) == count_tokens([SystemMessage("Be brief."), HumanMessage("Hi")])
    assert count_tokens("Hi") == 1


def test_texts_are_counted_by_the_encoding(counter: TokenCounter) -> None:
    encoding = encodings.load("o200k_base")
    assert encoding is not None
    for text in (
        "",
        "お誕生日おめでとう",
        "我搬到了北京。" * 60,
        "naïve 😀",
        "a\n\n b",
        "x" * 5000,
    ):
        assert counter.text(text) == len(encoding.encode(text)), text
    assert counter.text("お誕生日おめでとう") == 8
    assert counter.text("<|endoftext|>") > 1  # text, not a special token
    assert counter.text("\ud800") >= 1  # half of a character
    assert counter.text(" " * 1_200_000) > 0  # too much for tiktoken at once


def test_a_name_costs_its_tokens_and_one(counter: TokenCounter) -> None:
    plain, named = HumanMessage("Hi"), HumanMessage("Hi", name="Ann")
    assert counter.message(named) - counter.message(plain) == 1 + counter.text("Ann")


def test_roles(counter: TokenCounter) -> None:
    for message in (
        ChatMessage(content="Hi", role="critic"),
        SystemMessage("Hi", additional_kwargs={"__openai_role__": "developer"}),
    ):
        assert counter.message(message) == 3 + 1 + counter.text("Hi")


def test_tool_calls_and_results(counter: TokenCounter) -> None:
    call = {"name": "lookup", "args": {"order": "A-1"}, "id": "call_7"}
    asked = AIMessage("", tool_calls=[call])
    expected = 3 + sum(map(counter.text, ("lookup", '{"order": "A-1"}', "call_7")))
    assert counter.message(asked) - counter.message(AIMessage("")) == expected
    result = ToolMessage("on its way", tool_call_id="call_7")
    expected = 3 + sum(map(counter.text, ("tool", "on its way", "call_7")))
    assert counter.message(result) == expected
    broken = AIMessage(
        "",
        invalid_tool_calls=[
            {"name": "f", "args": "{", "id": None, "error": "x", "type": "invalid_tool_call"}
        ],
    )
    assert counter.message(broken) > counter.message(AIMessage(""))


def test_calls_repeated_in_the_content_count_once(counter: TokenCounter) -> None:
    call = {"name": "lookup", "args": {}, "id": "c"}
    block = {"type": "tool_use", "name": "lookup", "input": {}, "id": "c"}
    assert counter.message(AIMessage([block], tool_calls=[call])) == counter.message(
        AIMessage("", tool_calls=[call])
    )


def test_parts_of_a_content(counter: TokenCounter) -> None:
    parts: list[str | dict[str, Any]] = ["one", {"type": "text", "text": "two"}]
    base = counter.message(HumanMessage(""))
    assert counter.message(HumanMessage(parts)) == base + counter.text("one") + counter.text("two")
    unknown = {"type": "hologram", "payload": [1, 2, object()]}
    assert counter.message(HumanMessage([unknown])) > base
    assert counter.message(HumanMessage([{}])) >= base


def png(width: int, height: int) -> str:
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", width, height)
    return "data:image/png;base64," + base64.b64encode(data).decode()


def jpeg(width: int, height: int) -> str:
    data = b"\xff\xd8\xff\xe0" + struct.pack(">H", 16) + b"x" * 14
    data += b"\xff\xc0" + struct.pack(">HBHH", 17, 8, height, width) + b"x" * 10
    return "data:image/jpeg;base64," + base64.b64encode(data).decode()


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ({"url": png(1024, 1024)}, 765),  # the three examples of OpenAI's guide
        ({"url": png(2048, 4096)}, 1105),
        ({"url": png(4096, 8192), "detail": "low"}, 85),
        ({"url": jpeg(1024, 1024)}, 765),
        ({"url": png(10, 10)}, 85 + 170),
        ({"url": "https://example.com/a.png"}, 85 + 170 * 8),
        ({"url": "data:image/png;base64,AAAA"}, 85 + 170 * 8),
        ({"url": png(0, 0)}, 85 + 170 * 8),
        ("https://example.com/a.png", 85 + 170 * 8),
        (None, 85 + 170 * 8),
    ],
)
def test_images(counter: TokenCounter, image: object, expected: int) -> None:
    part = {"type": "image_url", "image_url": image}
    base = counter.message(HumanMessage(""))
    assert counter.message(HumanMessage([part])) - base == expected


def test_images_in_other_forms(counter: TokenCounter) -> None:
    data = png(512, 512).partition(",")[2]
    base = counter.message(HumanMessage(""))
    for part in (
        {"type": "image", "base64": data, "mime_type": "image/png"},
        {"type": "image", "source_type": "base64", "data": data},
        {"type": "image", "source": {"type": "base64", "data": data}},
        {"type": "input_image", "image_url": png(512, 512)},
    ):
        assert counter.message(HumanMessage([part])) - base == 85 + 170, part


def test_tools_in_every_form(counter: TokenCounter) -> None:
    @tool
    def weather(city: str) -> str:
        """Tell the weather."""
        return city

    class Weather(BaseModel):
        """Tell the weather."""

        city: str = Field(description="Where.")

    def forecast(city: str, days: int | None = None) -> str:
        """Tell the weather.

        Args:
            city: Where.
            days: How many.
        """
        return city

    class Address(BaseModel):
        street: str

    class Move(BaseModel):
        """Move."""

        to: Address
        rooms: list[str]

    sizes = [counter.tools([one]) for one in (weather, Weather, forecast, Move)]
    assert all(size > 12 + 7 for size in sizes)
    assert counter.tools([weather, Weather]) == sizes[0] + sizes[1] - 12
    assert counter.tools([Move]) > counter.tools([Weather])
    assert counter.tools([{"type": "web_search"}]) > 12
    assert counter.tools([]) == 0
    with pytest.raises(ConfigError, match="cannot count the tokens of tool 7"):
        counter.tools([7])


def test_unknown_models_count_as_o200k() -> None:
    assert TokenCounter.for_model("qwen3-4b").encoding_name == "o200k_base"
    assert TokenCounter.for_model("gpt-4").encoding_name == "cl100k_base"


def test_a_counter_survives_copies(counter: TokenCounter) -> None:
    assert copy.deepcopy(counter) is counter
    assert pickle.loads(pickle.dumps(counter)) is counter  # noqa: S301 - our own


def test_counting_again_is_a_look_up(counter: TokenCounter) -> None:
    history = [HumanMessage(f"message number {i} about this and that") for i in range(10_000)]
    first = counter.messages(history)
    best = 1.0
    for _ in range(3):
        begin = time.perf_counter()
        assert counter.messages(history) == first
        best = min(best, time.perf_counter() - begin)
    assert best < 0.2  # 0.02 s on an idle core, five times that for encoding anew


def test_the_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_CACHE_ENTRIES", 10)
    monkeypatch.setattr(tokens, "_CACHE_CHARACTERS", 1_000)
    monkeypatch.setattr(tokens, "_recents", {})
    counter = TokenCounter("gpt-4o", None)
    texts, messages = counter._texts, counter._messages
    for i in range(100):
        assert counter.text(f"text {i}") == upper_bound(f"text {i}")
        counter.message(HumanMessage(f"text {i}"))
        assert len(texts.young) + len(texts.old) <= 20
        assert len(messages.young) + len(messages.old) <= 20
    for i in range(100):
        counter.text(f"{i} " * 50)
        counter.message(HumanMessage(f"{i} " * 50))
        assert sum(len(str(k)) for k in (*texts.young, *texts.old)) <= 2 * (1_000 + 200)
        assert sum(len(str(k)) for k in (*messages.young, *messages.old)) <= 2 * (1_000 + 300)
    for i in range(10):
        counter.text("long " * 10_000 + str(i))
        counter.message(HumanMessage("long " * 10_000 + str(i)))
    assert all(len(str(key)) < 1_000 for key in (*texts.young, *messages.young))


def test_threads_share_the_cache(counter: TokenCounter) -> None:
    history = [HumanMessage(f"thread text {i}") for i in range(500)]
    seen: list[int] = []
    threads = [
        threading.Thread(target=lambda: seen.append(counter.messages(history))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [counter.messages(history)] * 8


# -- without ranks -----------------------------------------------------------------------------

PROSE = (
    "The asthma clinic moved; bring 3 (three) forms, ASAP! Don't forget: why try?\n"
    "Ich ziehe übermorgen nach Köln, Straße 12. J'ai déménagé à Besançon. Mañana será mejor. "
    "Příliš žluťoučký kůň úpěl. Źdźbło trawy chrzęściło. Dün İstanbul'a taşındım. "
    "Вчера я переехал. Їжак з'їв яблуко. Μετακόμισα χθες. 我昨天搬到了北京的新公寓 "
    "お誕生日おめでとう 어제 서울로 이사했습니다 انتقلت أمس मैं कल दिल्ली จะย้ายบ้าน 😀 👩‍👩‍👧 🇩🇪 "
    "def f(x_1): return {'a': [1.5e-3, None]} <|endoftext|> https://a.example/b?c=d#e"
)
PIECES = st.one_of(
    st.sampled_from(PROSE.split(" ")),
    st.integers().map(str),
    st.uuids().map(str),
    st.binary(max_size=24).map(lambda b: base64.b64encode(b).decode()),
    st.binary(max_size=24).map(bytes.hex),
    st.dates().map(str),
    st.text(alphabet="!\"#$%&'()*+,-./:;<=>?@[]^_`{|}~\t\n\r ", max_size=8),
    st.characters(min_codepoint=0x250).map(str),
)


@pytest.mark.parametrize("name", ["o200k_base", "cl100k_base"])
@given(pieces=st.lists(PIECES, max_size=30), glue=st.sampled_from(["", " ", "\n", ", "]))
def test_the_bound_is_never_too_low(name: str, pieces: list[str], glue: str) -> None:
    encoding = encodings.load(name)
    assert encoding is not None
    text = glue.join(pieces)
    assert upper_bound(text) >= len(encoding.encode_ordinary(text))


def test_the_bound_is_of_use(counter: TokenCounter) -> None:
    prose = " ".join(str(m.content) for m in CHAT)
    assert counter.text(prose) <= upper_bound(prose) <= 2.5 * counter.text(prose)


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """No ranks in the cache, none installed, and nothing remembered in this process."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(encodings, "find_spec", lambda name: None)
    monkeypatch.setattr(encodings, "DOWNLOAD_TIMEOUT_S", 0.3)
    encodings._load.cache_clear()
    monkeypatch.setattr(encodings, "_warned", [])
    yield tmp_path
    encodings._load.cache_clear()


def test_without_ranks_counts_are_bounds_after_one_warning(
    alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encodings, "_get", lambda address: None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for name in ("o200k_base", "cl100k_base", "o200k_base"):
            assert encodings.load(name) is None
    assert [w.category for w in caught] == [encodings.TokenCountWarning]
    assert "upper bounds" in str(caught[0].message)
    bounded = TokenCounter("gpt-4o", None)
    assert not bounded.exact
    assert bounded.text("Where is my order?") == upper_bound("Where is my order?")


@pytest.mark.parametrize("drip", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n"])
def test_a_server_that_hangs_does_not_hold_us_up(
    alone: Path, monkeypatch: pytest.MonkeyPatch, drip: bytes
) -> None:
    done = threading.Event()

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(drip)
            while not done.wait(0.05):
                if drip:  # a byte now and then, which no socket time-out notices
                    connection.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/o200k_base.tiktoken"
        begin = time.monotonic()
        with pytest.raises(LookupError, match=r"could not be downloaded within 0\.3 s"):
            encodings._content(address, "0" * 64)
        assert time.monotonic() - begin < 2
        done.set()
        thread.join()


def test_a_download_is_checked_and_saved(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"aGk= 0\n"
    monkeypatch.setattr(encodings, "_get", lambda address: content)
    with pytest.raises(LookupError):
        encodings._content("https://a.example/x.tiktoken", "0" * 64)
    assert not list(alone.iterdir())
    digest = hashlib.sha256(content).hexdigest()
    assert encodings._ranks("https://a.example/x.tiktoken", digest) == {b"hi": 0}
    assert [file.read_bytes() for file in alone.iterdir()] == [content]


def test_a_corrupt_cache_is_ignored_and_repaired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(encodings, "_get", lambda address: pytest.fail("reached the network"))
    address = "https://openaipublic.blob.core.windows.net/encodings/cl100k_base.tiktoken"
    file = tmp_path / hashlib.sha1(address.encode()).hexdigest()  # noqa: S324 - tiktoken's name
    file.write_bytes(b"corrupt")
    encodings._load.cache_clear()
    encoding = encodings.load("cl100k_base")
    encodings._load.cache_clear()
    assert encoding is not None
    assert encoding.encode("hello world") == [15339, 1917]
    # tiktoken itself finds it now, without a download.
    digest = "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"
    assert hashlib.sha256(read_file_cached(address, digest)).hexdigest() == digest


def test_a_cache_that_cannot_be_written_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "file"))
    encodings._load.cache_clear()
    assert encodings.load("cl100k_base") is not None
    encodings._load.cache_clear()


def test_every_encoding_reads_its_ranks_through_us(
    alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(encodings, "_get", asked.append)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for model in ("gpt-oss-20b", "gpt-2", "davinci", "text-davinci-003", "gpt-4o"):
            assert encodings.load(encodings.name_for(model)) is None
    names = {address.rsplit("/", 1)[-1] for address in asked}
    assert names == {"o200k_base.tiktoken", "r50k_base.tiktoken", "p50k_base.tiktoken"}
