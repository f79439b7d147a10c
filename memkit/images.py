"""The tokens of an image in a prompt for an OpenAI model.

Older models take a base and tiles of 512 pixels, newer ones patches of 32 pixels and a factor. A
dated or fine-tuned name and a variant (`gpt-5-codex`) count as the longest name listed here that
they begin with; what begins with none, such as another maker's model, counts as gpt-4o.

An image whose size cannot be read (a link, a file id, damaged data) counts as the largest image
that the model takes at that detail: 1,445 tokens for gpt-4o, but 36,000 for gpt-5.6, which does
not scale images down unless `detail` is "high" or "low".

Source: https://developers.openai.com/api/docs/guides/images-vision#calculating-costs. Models that
the guide no longer lists count as it last described them: gpt-4.5 and computer-use-preview, and
the 1,536 patches of gpt-5-mini, gpt-5-nano, gpt-4.1-nano, o4-mini and the codex models.
"""

import base64
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

Size: TypeAlias = tuple[int, int]
"""Width and height in pixels."""

Limits: TypeAlias = tuple[int, int]
"""An image is scaled down to this longer side in pixels, and then to this many patches."""

_MAX_TILES = 8  # 2048 x 768 pixels
_JPEG_SEGMENTS = 512  # metadata of 32 MB


@dataclass(frozen=True)
class TileRates:
    """The tokens of any image, and of each of its tiles unless its detail is low."""

    base: int
    tile: int

    def tokens(self, size: Size | None, detail: object = None) -> int:
        """Return the tokens of an image of this size; None for an unknown size."""
        if detail == "low":
            return self.base
        return self.base + self.tile * (_tiles(*size) if size else _MAX_TILES)


@dataclass(frozen=True)
class PatchRates:
    """The tokens of a hundred patches, and the limits of an image for each detail."""

    percent: int
    auto: Limits
    low: Limits
    high: Limits
    original: Limits

    def tokens(self, size: Size | None, detail: object = None) -> int:
        """Return the tokens of an image of this size; None for an unknown size."""
        named = {"low": self.low, "high": self.high, "original": self.original}
        side, most = named.get(detail, self.auto) if isinstance(detail, str) else self.auto
        count = _patches(*size, side, most) if size else min(most, math.ceil(side / 32) ** 2)
        return -(-count * self.percent // 100)


Rates: TypeAlias = TileRates | PatchRates


def _same(percent: int, limits: Limits) -> PatchRates:
    return PatchRates(percent, limits, limits, limits, limits)


_SMALL, _FULL, _HIGH, _LARGE = (512, 256), (2048, 6144), (2048, 2500), (6000, 10_000)
# Above 30,000 patches a request is refused.
_ANY = (65_535, 30_000)

_RATES: dict[str, Rates] = {
    "gpt-4o": TileRates(85, 170),
    "gpt-4.1": TileRates(85, 170),
    "gpt-4.5": TileRates(85, 170),
    "gpt-4o-mini": TileRates(2833, 5667),
    "o1": TileRates(75, 150),
    "o3": TileRates(75, 150),
    "gpt-5": TileRates(70, 140),
    "gpt-5.1": TileRates(70, 140),
    "computer-use-preview": TileRates(65, 129),
    "gpt-4.1-mini": _same(162, _FULL),
    "gpt-4.1-nano": _same(246, (2048, 1536)),
    "o4-mini": _same(172, (2048, 1536)),
    "gpt-5-mini": _same(120, (2048, 1536)),
    "gpt-5-nano": _same(150, (2048, 1536)),
    # The factor of these three is not published; it is taken to be that of gpt-5-mini.
    "gpt-5-codex-mini": _same(120, (2048, 1536)),
    "gpt-5.1-codex-mini": _same(120, (2048, 1536)),
    "gpt-5.3-codex": _same(120, (2048, 1536)),
    "gpt-5.2": _same(120, _FULL),
    "gpt-5.4": PatchRates(120, auto=_HIGH, low=_FULL, high=_HIGH, original=_LARGE),
    "gpt-5.5": PatchRates(120, auto=_LARGE, low=_SMALL, high=_HIGH, original=_LARGE),
    "gpt-5.6": PatchRates(120, auto=_ANY, low=_SMALL, high=_HIGH, original=_ANY),
    "gpt-6-astra": PatchRates(120, auto=_ANY, low=_SMALL, high=(65_535, 2500), original=_ANY),
}


@lru_cache(maxsize=256)
def rates_for(model: str) -> Rates:
    """Return what a model takes for an image; equal for models that take the same.

    Args:
        model: A name, which a provider may precede: "openai:gpt-4o", "ft:gpt-4o-mini:org::id".
    """
    for name in re.split("[:/@]", model.lower()):
        while name:
            if name in _RATES:
                return _RATES[name]
            name = name.rpartition("-")[0]  # noqa: PLW2901 - one word shorter each time
    return _RATES["gpt-4o"]


def image_tokens(part: Mapping[str, Any], model: str) -> int:
    """Return the tokens of an image in the content of a message, whatever it holds.

    Args:
        part: A content part of type `image_url`, `input_image` or `image`.
        model: The model's name.

    Cost: microseconds; of the data only the header is decoded, nothing is downloaded.
    """
    inner = part.get("image_url")
    fields = inner if isinstance(inner, Mapping) else part
    nested = fields.get("source")
    source = nested if isinstance(nested, Mapping) else fields
    given = (inner, *(source.get(key) for key in ("url", "base64", "data")))
    data = next((value for value in given if isinstance(value, str) and value), "")
    # LangChain sends a part of type "image" without its detail.
    detail = None if part.get("type") == "image" else fields.get("detail")
    return rates_for(model).tokens(_size(data), detail)


def _tiles(width: int, height: int) -> int:
    """Return the tiles of 512 pixels after scaling into 2048 x 2048 and the short side to 768."""
    short, long = sorted(_fitted(width, height, 2048))
    if short > 768:
        short, long = 768, long * 768 // short
    return math.ceil(short / 512) * math.ceil(long / 512)


def _patches(width: int, height: int, side: int, most: int) -> int:
    """Return the patches of 32 pixels after scaling to the longer side and to the most patches."""
    width, height = _fitted(width, height, side)
    count = math.ceil(width / 32) * math.ceil(height / 32)
    if count <= most:
        return count
    shrink = math.sqrt(32 * 32 * most / (width * height))
    across, down = width * shrink / 32, height * shrink / 32
    shrink *= min(math.floor(across) / across, math.floor(down) / down)
    count = math.ceil(int(width * shrink) / 32) * math.ceil(int(height * shrink) / 32)
    return min(count, most)


def _fitted(width: int, height: int, side: int) -> Size:
    long = max(width, height)
    if long <= side:
        return width, height
    return max(1, round(width * side / long)), max(1, round(height * side / long))


def _size(data: str) -> Size | None:
    """Return the size of an image in base64 or a data: URL, or None if it cannot be read."""
    begin = data.find(",", 0, 256) + 1 if data[:5].lower() == "data:" else 0
    try:
        size = _read(data, begin)
    except ValueError:  # a link, or no base64
        return None
    return size if size and min(size) > 0 else None


def _read(data: str, begin: int) -> Size | None:
    head = _bytes(data, begin, 0, 30)
    if len(head) < 10:
        return None
    if head[:8] == b"\x89PNG\r\n\x1a\n" and head[12:16] == b"IHDR" and len(head) >= 24:
        return int.from_bytes(head[16:20]), int.from_bytes(head[20:24])
    if head[:2] == b"\xff\xd8":
        return _jpeg(data, begin)
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return int.from_bytes(head[6:8], "little"), int.from_bytes(head[8:10], "little")
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP" and len(head) == 30:
        return _webp(head)
    return None


def _webp(head: bytes) -> Size | None:
    kind = head[12:16]
    if kind == b"VP8X":
        return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
    if kind == b"VP8L" and head[20] == 0x2F:  # two numbers of 14 bits
        both = int.from_bytes(head[21:25], "little")
        return (both & 0x3FFF) + 1, (both >> 14 & 0x3FFF) + 1
    if kind == b"VP8 " and head[23:26] == b"\x9d\x01\x2a":
        width, height = head[26:28], head[28:30]
        return int.from_bytes(width, "little") & 0x3FFF, int.from_bytes(height, "little") & 0x3FFF
    return None


def _jpeg(data: str, begin: int) -> Size | None:
    """Return the size in the start of frame; the segments before it are stepped over unread."""
    at = 2
    for _ in range(_JPEG_SEGMENTS):
        segment = _bytes(data, begin, at, 9)
        if len(segment) < 9 or segment[0] != 0xFF:
            return None
        marker = segment[1]
        if marker == 0xFF:  # padding
            at += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # start of frame
            return int.from_bytes(segment[7:9]), int.from_bytes(segment[5:7])
        at += 2 + int.from_bytes(segment[2:4])
    return None


def _bytes(data: str, begin: int, at: int, count: int) -> bytes:
    """Return bytes `at` to `at + count` of what base64 holds from `begin` on; fewer at its end."""
    first, last = at // 3, -(-(at + count) // 3)
    decoded = base64.b64decode(data[begin + first * 4 : begin + last * 4], validate=True)
    return decoded[at - first * 3 :][:count]
