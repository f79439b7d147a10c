r"""Between Python's JSON values and what jsonb and text can hold, without loss.

Postgres stores neither NUL nor lone surrogates, and U+0001 separates labels in an index. They, and
the escape character itself, become `\ue000` and four hexadecimal digits; strings without them are
stored as they are.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from memkit.errors import StoreError

_ESCAPE = "\ue000"
_UNFIT = re.compile("[\x00\x01\ud800-\udfff\ue000]")
_ESCAPED = re.compile(_ESCAPE + "([0-9a-f]{4})")
# Not strict, for the control characters that unescape brings back.
# jsonb as text has no space around it.
_scan: Any = json.JSONDecoder(strict=False).scan_once  # type: ignore[attr-defined]
_ENCODER = json.JSONEncoder(ensure_ascii=False)
_EXACT_BELOW = 1e16  # from here on, Python writes a float with an exponent


def escape(text: str) -> str:
    """Return `text` with what Postgres cannot hold escaped."""
    return _UNFIT.sub(lambda match: f"{_ESCAPE}{ord(match[0]):04x}", text)


def unescape(text: str) -> str:
    """Undo `escape`."""
    if _ESCAPE not in text:
        return text
    return _ESCAPED.sub(lambda match: chr(int(match[1], 16)), text)


def encode(value: Any, what: str) -> str:
    """Return a value as text for jsonb.

    Args:
        value: Anything that JSON can say; tuples become lists.
        what: Names the value in messages.

    Raises:
        StoreError: JSON cannot say it.
    """
    try:
        return _ENCODER.encode(_storable(value, what))
    except (RecursionError, ValueError) as error:  # too deep, or a number of too many digits
        msg = f"{what} cannot be stored as JSON: {error}"
        raise StoreError(msg) from error


def decode(text: str) -> Any:
    """Return the value of jsonb text that `encode` wrote."""
    value, _ = _scan(unescape(text), 0)
    return value


def words(text: str) -> str:
    """Return text fit for embedding and full-text search: no NUL, no lone surrogate."""
    return _UNFIT.sub(" ", text)


def _storable(value: Any, what: str) -> Any:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            msg = f"{what} holds {value}, which JSON has not; store None or a string instead"
            raise StoreError(msg)
        # jsonb keeps decimal digits: 1e23 would come back as 10**23, which is another number.
        return value if abs(value) < _EXACT_BELOW else int(value)
    if isinstance(value, list | tuple):
        return [_storable(element, f"{what}[{i}]") for i, element in enumerate(value)]
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                msg = f"{what} has the key {name!r}; JSON keys are strings"
                raise StoreError(msg)
        return {
            escape(name): _storable(element, f"{what}[{name!r}]") for name, element in value.items()
        }
    msg = f"{what} is a {type(value).__name__}, which JSON has not; convert it first"
    raise StoreError(msg)
