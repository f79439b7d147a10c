"""When a fact is too old to be relied on. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from memkit.errors import ConfigError
from memkit.facts.model import Fact, as_utc
from memkit.state import Freshness

_DURATION = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([smhdwy])\s*$", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800, "y": 365 * 86_400}
_ISO = TypeAdapter(timedelta)
_NEVER = "never"


def duration(value: str | timedelta) -> timedelta:
    """Return a duration given as `timedelta`, as number and unit, or in ISO 8601.

    Args:
        value: "30m", "12h", "90d", "2w", "1y", or "PT12H", "P90D", "P1Y2M". A year has 365 days, a
            month (ISO only) 30.

    Raises:
        ConfigError: It is none of these, not above zero, or beyond what a `timedelta` holds.
    """
    if isinstance(value, str):
        match = _DURATION.match(value)
        try:
            if match is not None:
                value = timedelta(seconds=float(match[1]) * _SECONDS[match[2]])
            elif value.strip().startswith("P"):
                value = _ISO.validate_python(value.strip())
        except OverflowError:
            raise ConfigError(f"a duration is at most 2.7 million years, got {value!r}") from None
        except ValidationError:
            raise ConfigError(f"a duration in ISO 8601 is like P90D; got {value!r}") from None
    if not isinstance(value, timedelta):
        raise ConfigError(
            'a duration is a timedelta, a number and one of s, m, h, d, w, y ("90d"), or ISO 8601'
            f' ("P90D"); got {value!r}'
        )
    if value <= timedelta(0):
        raise ConfigError(f"a duration must be above zero, got {value!r}")
    return value


@lru_cache(maxsize=256)
def _limit(value: str | timedelta | None) -> timedelta | None:
    return None if value is None or value == _NEVER else duration(value)


@dataclass(frozen=True)
class StalenessPolicy:
    """How long a fact stays fresh after the person last confirmed it.

    A duration is what `duration` reads, or "never": such facts do not go stale.

    Args:
        default: For what is not named below.
        kinds: Per kind: `{"address": "30d"}`.
        attributes: Per attribute, before its kind: `{"birthday": "never", "job": "P6M"}`.
        expire_after: Beyond this age a fact is expired; None: only by its `valid_to` or status.
            What is "never" stale does not expire by age either.

    Raises:
        ConfigError: A duration cannot be read, or a mapping is not one of names.
    """

    default: str | timedelta = "90d"
    kinds: Mapping[str, str | timedelta] = field(default_factory=dict)
    expire_after: str | timedelta | None = None
    attributes: Mapping[str, str | timedelta] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("kinds", "attributes"):
            given = getattr(self, name)
            if not isinstance(given, Mapping) or not all(isinstance(k, str) for k in given):
                raise ConfigError(
                    f'{name} gives a duration by name: {{"address": "30d"}}; got {given!r}'
                )
        for value in (self.default, *self.kinds.values(), *self.attributes.values()):
            if value != _NEVER:
                duration(value)
        if self.expire_after is not None and self.expire_after != _NEVER:
            duration(self.expire_after)

    def max_age(self, kind: str | None, attribute: str | None = None) -> timedelta | None:
        """Return how long a fact of this kind and attribute stays fresh, None for ever."""
        by_kind = self.kinds.get(kind or "", self.default)
        return _limit(self.attributes.get(attribute or "", by_kind))

    def freshness(self, fact: Fact | Mapping[str, Any], now: datetime) -> Freshness:
        """Return "fresh", "stale" or "expired" as of `now`.

        Args:
            fact: A Fact, or the value of its store item. Its age counts from `last_confirmed`,
                else `last_updated`; a fact with neither is stale, since nothing vouches for it,
                unless its like is "never" stale.
            now: A time; one without a zone is taken as UTC.
        """
        read = fact.get if isinstance(fact, Mapping) else lambda name: getattr(fact, name, None)
        now = as_utc(now) or now
        until = as_utc(read("valid_to"))
        if (read("status") or "current") != "current" or (until is not None and until <= now):
            return "expired"
        max_age = self.max_age(read("kind"), read("attribute"))
        if max_age is None:
            return "fresh"
        seen = as_utc(read("last_confirmed")) or as_utc(read("last_updated"))
        if seen is None:
            return "stale"
        age, expire_after = now - seen, _limit(self.expire_after)
        if expire_after is not None and age > expire_after:
            return "expired"
        return "stale" if age > max_age else "fresh"
