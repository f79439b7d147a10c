import base64
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from memkit.images import PatchRates, TileRates, image_tokens, rates_for

MODELS = [
    *("gpt-4o", "gpt-4o-mini", "gpt-4.1-mini", "o4-mini", "o3", "gpt-5", "gpt-5-nano", "gpt-5.2"),
    *("gpt-5.4", "gpt-5.5", "gpt-5.6-sol", "gpt-6-astra", "claude-opus", ""),
]
DETAILS = ["low", "high", "original", "auto", None]


def png(width: int, height: int) -> bytes:
    """Return a whole picture in one shade of grey."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" * ((width + 1) * min(height, 64)))
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def jpeg(width: int, height: int, *before: bytes, frame: int = 0xC0) -> bytes:
    """Return a JPEG up to its scan, with segments before the start of frame."""
    components = b"\3\1\x22\0\2\x11\1\3\x11\1"
    start = segment(frame, struct.pack(">BHH", 8, height, width) + components)
    app0 = segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0")
    return b"\xff\xd8" + app0 + b"".join(before) + start + segment(0xDA, b"\0" * 10) + b"\xff\xd9"


def gif(width: int, height: int) -> bytes:
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0, 0, 0) + b"\x2c" + b"\0" * 30


def webp(kind: bytes, body: bytes) -> bytes:
    chunk = kind + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", len(chunk) + 4) + b"WEBP" + chunk


def lossy(width: int, height: int) -> bytes:
    return webp(
        b"VP8 ", b"\0\0\0\x9d\x01\x2a" + struct.pack("<HH", width | 2 << 14, height | 1 << 14)
    )


def lossless(width: int, height: int) -> bytes:
    both = struct.pack("<I", (width - 1) | (height - 1) << 14)
    return webp(b"VP8L", b"\x2f" + both + b"\0" * 20)


def extended(width: int, height: int) -> bytes:
    sides = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    return webp(b"VP8X", b"\0" * 4 + sides)


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def image(data: bytes, detail: str | None = None) -> dict[str, Any]:
    url = {"url": "data:image/png;base64," + encoded(data)}
    return {"type": "image_url", "image_url": url | ({"detail": detail} if detail else {})}


@pytest.mark.parametrize(
    ("model", "size", "detail", "expected"),
    [
        # https://platform.openai.com/docs/guides/vision/calculating-costs, as it was for gpt-4o
        ("gpt-4o", (1024, 1024), "high", 765),
        ("gpt-4o", (2048, 4096), "high", 1105),
        ("gpt-4o", (4096, 8192), "low", 85),
        # https://developers.openai.com/api/docs/guides/images-vision, gpt-5.4 and gpt-6-astra
        ("gpt-5.4", (1024, 1024), "high", 1229),
        ("gpt-5.4", (2048, 2048), "high", 3000),
        ("gpt-6-astra", (4096, 512), "high", 2458),
        # The same guide, the examples for 1,536 patches: 1,024 and 1,452, times 1.72
        ("o4-mini", (1024, 1024), "high", 1762),
        ("o4-mini", (1800, 2400), "high", 2498),
        # Its table of bases and tiles, for one tile or four
        ("gpt-4o-mini", (1024, 1024), "high", 2833 + 4 * 5667),
        ("gpt-4o-mini", (1024, 1024), "low", 2833),
        ("o1-pro", (512, 512), "high", 75 + 150),
        ("gpt-5-chat-latest", (512, 512), "auto", 70 + 140),
        ("computer-use-preview", (512, 512), None, 65 + 129),
        # The short side to 768, the other rounded down: 2 x 2 tiles, not 3 x 2
        ("gpt-4o", (769, 1025), "high", 765),
        ("gpt-4o", (800, 1067), "high", 765),
        # Billed, less 8 tokens of text: https://community.openai.com/t/1281361
        ("gpt-4.1", (2049, 513), "high", 1453 - 8),
        ("gpt-4.1", (2050, 513), "high", 773 - 8),
        # Billed without the text: https://community.openai.com/t/1344040
        ("gpt-5-mini", (256, 256), None, 77),
        ("gpt-5-mini", (768, 1024), None, 922),
        ("gpt-5-mini", (2048, 768), None, 1844),
        # The limits of a detail, from the guide's table of sizes
        ("gpt-5.4", (2048, 2048), "low", 4916),  # 4,096 patches: more than high takes
        ("gpt-5.5", (2048, 2048), "low", 308),  # 16 x 16 patches
        ("gpt-5.6-sol", (4096, 2048), None, 9831),  # 8,192 patches: not scaled down
        ("gpt-5.5", (12_000, 600), None, 2256),  # 6,000 x 300: 188 x 10 patches
        ("gpt-4.1-mini", (2048, 2048), None, 6636),
    ],
)
def test_published_examples(
    model: str, size: tuple[int, int], detail: str | None, expected: int
) -> None:
    width, height = size
    assert image_tokens(image(jpeg(width, height), detail), model) == expected
    assert image_tokens(image(jpeg(height, width), detail), model) == expected


@pytest.mark.parametrize("write", [png, jpeg, gif, lossy, lossless, extended])
def test_every_format(write: Callable[[int, int], bytes]) -> None:
    # 33 x 2 patches and 33 x 3: both sides are read, and in full.
    assert image_tokens(image(write(1030, 33)), "gpt-5.6") == 80
    assert image_tokens(image(write(1030, 65)), "gpt-5.6") == 119
    assert image_tokens(image(write(65, 1030)), "gpt-5.6") == 119
    assert image_tokens(image(write(1, 1)), "gpt-5.6") == 2


@pytest.mark.parametrize("frame", [0xC0, 0xC1, 0xC2, 0xC9])
def test_a_jpeg_with_much_before_its_frame(frame: int) -> None:
    thumbnail = segment(0xE1, b"Exif\0\0" + jpeg(160, 120))
    profile = segment(0xE2, bytes(65_000))
    tables = segment(0xC4, bytes(20)) + segment(0xDB, bytes(65))
    data = jpeg(1024, 1024, thumbnail, *[profile] * 20, b"\xff\xff", tables, frame=frame)
    assert image_tokens(image(data), "gpt-4o") == 765
    assert image_tokens(image(jpeg(1024, 1024, *[profile] * 600)), "gpt-4o") == 1445


def test_only_the_header_is_decoded() -> None:
    part = image(png(1024, 1024) + bytes(8_000_000), "high")
    plain = {"type": "image", "base64": encoded(png(1024, 1024) + bytes(8_000_000))}
    rates_for("gpt-4o")
    tracemalloc.start()
    try:
        assert image_tokens(part, "gpt-4o") == image_tokens(plain, "gpt-4o") == 765
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 20_000


def test_parts_of_every_kind() -> None:
    data = encoded(png(512, 512))
    url = f"data:image/png;base64,{data}"
    parts: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "image_url", "image_url": url},
        {"type": "image_url", "image_url": {"url": url.replace("data:", "DATA:")}},
        {"type": "input_image", "image_url": url, "detail": "high"},
        {"type": "image", "url": url},
        {"type": "image", "base64": data, "mime_type": "image/png"},
        {"type": "image", "source_type": "base64", "data": data, "mime_type": "image/png"},
        {"type": "image", "source_type": "url", "url": url},
        {"type": "image", "source": {"type": "base64", "data": data}},
        {"type": "image", "source": {"type": "url", "url": url}},
    ]
    for part in parts:
        assert image_tokens(part, "gpt-4o") == 85 + 170, part
    low = {"type": "input_image", "image_url": url, "detail": "low"}
    assert image_tokens(low, "gpt-4o") == 85
    # LangChain leaves the detail of this one out, so that it is not low for the model.
    assert image_tokens({"type": "image", "url": url, "detail": "low"}, "gpt-4o") == 85 + 170


@pytest.mark.parametrize(
    "data",
    [
        "",
        "https://example.com/a.png",
        "data:image/png;base64,",
        "data:image/png;base64,AAAA",
        "data:image/png;base64",
        "data:" + "x" * 400 + "," + encoded(png(8, 8)),
        "data:image/png;base64," + encoded(png(0, 8)),
        "data:image/png;base64," + encoded(png(8, 8)[:20]),
        "data:image/png;base64," + encoded(png(8, 8))[:31],
        "data:image/png;base64," + encoded(png(8, 8)).replace("I", "-", 1),
        "data:image/png;base64,\N{SNOWMAN}" + encoded(png(8, 8)),
        "\ud800",
        encoded(b"\xff\xd8\xff"),
        encoded(b"\xff\xd8" + b"\xff" * 2000),
        encoded(b"\xff\xd8" + b"\xff\xe1\0\0" * 1000),
        encoded(b"\xff\xd8\xff\xe1\xff\xff" + bytes(50)),
        encoded(jpeg(8, 0)),
        encoded(gif(0, 0)),
        # Another alphabet: with the four characters left out it would be 1 x 1.
        encoded(b"GIF89a\xfb\xef\xbe\1\0\1" + bytes(30)).replace("+", "-"),
        encoded(b"RIFF\0\0\0\0WEBPVP8 " + bytes(20)),
        encoded(webp(b"VP8 ", b"\0\0\0\0\0\0\1\0\1\0")),
        encoded(b"RIFF\0\0\0\0WEBPVP8L" + bytes(20)),
        encoded(extended(8, 8)[:29]),
    ],
)
def test_what_cannot_be_read_counts_as_the_largest(data: str) -> None:
    part = {"type": "image", "url": data}
    assert image_tokens(part, "gpt-4o") == 85 + 8 * 170
    assert image_tokens(part, "o4-mini") == 2642
    assert image_tokens(part, "gpt-4.1-mini") == 6636
    assert image_tokens(part, "gpt-5.6") == 36_000


@pytest.mark.parametrize(
    "part",
    [
        {},
        {"type": "image_url", "image_url": None},
        {"type": "image_url", "image_url": {"url": 7, "detail": ["low"]}},
        {"type": "image", "source": "file", "data": b"bytes"},
        {"type": "image", "file_id": "file-1"},
    ],
)
def test_odd_parts_count_as_the_largest(part: dict[str, Any]) -> None:
    assert image_tokens(part, "gpt-4o") == 85 + 8 * 170
    assert image_tokens(part, "gpt-5.5") == 12_000


@pytest.mark.parametrize(
    ("model", "like"),
    [
        ("gpt-4o-2024-08-06", "gpt-4o"),
        ("gpt-4o-mini-2024-07-18", "gpt-4o-mini"),
        ("openai:gpt-4o-mini", "gpt-4o-mini"),
        ("openrouter:openai/gpt-5-nano", "gpt-5-nano"),
        ("ft:gpt-4o-mini-2024-07-18:acme:o3:id", "gpt-4o-mini"),
        ("GPT-5.4-Nano", "gpt-5.4"),
        ("gpt-5.6-terra", "gpt-5.6"),
        ("gpt-5-codex", "gpt-5"),
        ("gpt-5.1-codex-mini", "gpt-5-mini"),
        ("o1-pro-2025-03-19", "o3"),
        ("gpt-4-turbo", "gpt-4o"),
        ("chatgpt-4o-latest", "gpt-4o"),
        ("gpt-5.7", "gpt-4o"),  # not gpt-5
        ("o30", "gpt-4o"),
        ("anthropic:claude-opus-4", "gpt-4o"),
        ("-", "gpt-4o"),
    ],
)
def test_names_of_models(model: str, like: str) -> None:
    assert rates_for(model) == rates_for(like)
    assert hash(rates_for(model)) == hash(rates_for(like))


def test_rates_of_unlike_models_differ() -> None:
    alike = ["gpt-4o", "gpt-4.1", "gpt-4.5"]
    assert {rates_for(model) for model in alike} == {TileRates(85, 170)}
    names = ["gpt-4o", "gpt-4o-mini", "o1", "gpt-5", "o4-mini", "gpt-5-mini", "gpt-5.2", "gpt-5.5"]
    assert len({rates_for(model) for model in names}) == len(names)


def bounds(model: str, detail: str | None) -> tuple[int, int]:
    rates = rates_for(model)
    least = -(-rates.percent // 100) if isinstance(rates, PatchRates) else rates.base
    return least, rates.tokens(None, detail)


sides = st.integers(1, 5000) | st.integers(1, 2**31)


@given(sides, sides, st.sampled_from(MODELS), st.sampled_from(DETAILS))
@example(65_535, 33, "gpt-6-astra", "high")
@example(2**31, 1, "gpt-5.5", "original")
def test_every_size_is_within_bounds(
    width: int, height: int, model: str, detail: str | None
) -> None:
    least, most = bounds(model, detail)
    tokens = rates_for(model).tokens((width, height), detail)
    assert least <= tokens <= most
    assert tokens == rates_for(model).tokens((height, width), detail)


whole = st.sampled_from([png(640, 480), jpeg(640, 480), gif(64, 48), lossy(9, 9), extended(9, 9)])


@st.composite
def damaged(draw: st.DrawFn) -> str:
    data = bytearray(draw(whole))
    for at, byte in draw(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 255)), max_size=8)):
        data[at % len(data)] = byte
    text = encoded(bytes(data[: draw(st.integers(0, 200))]))
    prefix = draw(st.sampled_from(["", "data:image/png;base64,", "data:,", "data:"]))
    return prefix + text[: draw(st.integers(0, 300))]


urls = damaged() | st.text() | st.binary().map(encoded) | st.none() | st.integers()
inner = urls | st.dictionaries(
    st.sampled_from(["url", "detail", "source", "data"]), urls | st.dictionaries(st.text(), urls)
)


@given(
    st.dictionaries(
        st.sampled_from(["type", "image_url", "url", "base64", "data", "source", "detail"]), inner
    ),
    st.sampled_from(MODELS) | st.text(),
)
def test_no_part_raises(part: dict[str, Any], model: str) -> None:
    least, most = 1, max(bounds(model, detail)[1] for detail in DETAILS)
    assert least <= image_tokens(part, model) <= most


@given(damaged(), st.sampled_from(MODELS), st.sampled_from(DETAILS))
def test_no_data_raises(url: str, model: str, detail: str | None) -> None:
    least, most = bounds(model, detail)
    part = {"type": "image_url", "image_url": {"url": url, "detail": detail}}
    assert least <= image_tokens(part, model) <= most
