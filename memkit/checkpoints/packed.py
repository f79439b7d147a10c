"""Stored values, handled without making the objects that they stand for.

A value in msgpack names its classes in extensions. Left as they are, a value moves from one table
to another byte by byte: no class need be known, allowed or even importable.
"""

import json
import math
from collections.abc import Collection, Mapping
from typing import Any

import ormsgpack
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.serde.types import _DeltaSnapshot

from memkit.checkpoints.backend import Typed, ValueKey, loaded
from memkit.errors import CopyFailed

_SNAPSHOT = 7  # LangGraph's extension for a DeltaChannel's snapshot
_KEYS = ormsgpack.OPT_NON_STR_KEYS


def is_plain(saver: Any) -> bool:
    """Say whether a saver's values are LangGraph's own form, which every saver reads."""
    return type(saver.serde) is JsonPlusSerializer


def split(
    saver: Any, stored: Typed, ns: str, known: Collection[ValueKey]
) -> tuple[dict[str, Any], dict[str, Typed]]:
    """Take a checkpoint that holds its values apart: what is left, and the values.

    Raises:
        PruneUnsafe: The saver has a serializer of its own, which is strict about a class.
    """
    if is_plain(saver) and stored[0] == "msgpack":
        head = _unpacked(stored[1])
        values = head.pop("channel_values", None) or {}
        pack = _packed
    else:
        head = loaded(saver, stored)
        values = head.pop("channel_values", None) or {}
        pack = saver.serde.dumps_typed
    versions = head["channel_versions"]
    return head, {
        channel: pack(value)
        for channel, value in values.items()
        if (ns, channel, str(versions.get(channel))) not in known
    }


def joined(saver: Any, head: Mapping[str, Any], values: Mapping[str, Typed]) -> Typed:
    """Put a checkpoint together with its values."""
    if is_plain(saver) and all(kind in _RAW for kind, _ in values.values()):
        raw = {channel: _RAW[kind](data) for channel, (kind, data) in values.items()}
        return _packed({**head, "channel_values": raw})
    made = {channel: loaded(saver, value) for channel, value in values.items()}
    result: Typed = saver.serde.dumps_typed({**head, "channel_values": made})
    return result


def as_json(value: Typed) -> tuple[bool, Any]:
    """Return whether a value is one that JSON in Postgres keeps as it is, and that value.

    Such are None, truth values, integers and most texts. Floats may come back as integers.
    """
    kind, data = value
    if kind == "null":
        return True, None
    # The first byte tells short integers, None, truth values, integers and texts.
    if kind != "msgpack" or not (data[0] < 0x80 or 0xA0 <= data[0] <= 0xDB or data[0] >= 0xE0):
        return False, None
    plain = _unpacked(data)
    if plain is None or type(plain) in (bool, int):
        return True, plain
    return type(plain) is str and _fits(plain), plain


def _fits(text: str) -> bool:
    return "\0" not in text and not any("\ud800" <= c <= "\udfff" for c in text)


def is_snapshot(saver: Any, value: Typed) -> bool:
    """Say whether a value is the snapshot of a DeltaChannel."""
    kind, data = value
    if kind == "msgpack":
        # An extension: its length in 1, 2 or 4 bytes, or given by the first byte; then its code.
        code = {0xC7: 2, 0xC8: 3, 0xC9: 5}.get(data[0], 1 if 0xD4 <= data[0] <= 0xD8 else 0)
        return bool(code) and data[code] == _SNAPSHOT
    return not is_plain(saver) and isinstance(saver.serde.loads_typed(value), _DeltaSnapshot)


def json_text(value: Mapping[str, Any]) -> str:
    """Return an object as JSON that every database takes.

    What an old LangGraph kept in metadata under "writes" goes where it is no JSON: nothing reads
    it, and PostgresSaver stores none of it.

    Raises:
        CopyFailed: It holds what JSON in Postgres has no form for.
    """
    try:
        return _json(value)
    except (TypeError, ValueError) as error:
        if "writes" in value:
            return json_text({name: part for name, part in value.items() if name != "writes"})
        raise CopyFailed(
            f"what is stored of a checkpoint beside its values cannot be kept as JSON: {error}"
        ) from error


def _json(value: Mapping[str, Any]) -> str:
    _check(value)
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    text.encode()  # half a surrogate pair has no UTF-8
    return text


def _check(value: Any) -> None:
    if isinstance(value, str) and "\0" in value:
        raise ValueError(f"a text with the character 0, {value[:40]!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"the number {value}")
    if isinstance(value, Mapping):
        for name, part in value.items():
            _check(name)
            _check(part)
    elif isinstance(value, list | tuple):
        for part in value:
            _check(part)


def _unpacked(data: bytes) -> Any:
    return ormsgpack.unpackb(data, ext_hook=ormsgpack.Ext, option=_KEYS)


def _packed(value: Any) -> Typed:
    return "msgpack", ormsgpack.packb(value, option=_KEYS)


_RAW: Mapping[str, Any] = {"msgpack": _unpacked, "null": lambda _: None, "bytes": lambda data: data}
