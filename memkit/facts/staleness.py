"""When a fact is too old to be relied on. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from memkit.errors import ConfigError
from memkit.facts.model import Fact, as_utc
from memkit.state import Freshness

_DURATION = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([smhdwy])\s*$")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800, "y": 365 * 86_400}


def duration(value: str | timedelta) -> timedelta:
    """Return a duration given as `timedelta` or as number and unit: 30m, 12h, 90d, 2w, 1y.

    Raises:
        ConfigError: It is neither, not above zero, or beyond what a `timedelta` holds.
    """
    if isinstance(value, str):
        match = _DURATION.match(value)
        if match is None:
            raise ConfigError(
                f'a duration is a number and one of s, m, h, d, w, y: "90d"; got {value!r}'
            )
        try:
            value = timedelta(seconds=float(match[1]) * _SECONDS[match[2]])
        except OverflowError:
            raise ConfigError(f"a duration is at most 2.7 million years, got {value!r}") from None
    if not isinstance(value, timedelta):
        raise ConfigError(f'a duration is a text like "90d" or a timedelta, got {value!r}')
    if value <= timedelta(0):
        raise ConfigError(f"a duration must be above zero, got {value!r}")
    return value


@dataclass(frozen=True)
class StalenessPolicy:
    """How long a fact stays fresh after the person last confirmed it.

    Args:
        default: For kinds that are not named: "90d", "12h", or a `timedelta`.
        kinds: Per kind: `{"address": "30d"}`.
        expire_after: Beyond this age a fact is expired; None: only by its `valid_to` or status.

    Raises:
        ConfigError: A duration cannot be read, or `kinds` is not a mapping of names.
    """

    default: str | timedelta = "90d"
    kinds: Mapping[str, str | timedelta] = field(default_factory=dict)
    expire_after: str | timedelta | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.kinds, Mapping) or not all(isinstance(k, str) for k in self.kinds):
            raise ConfigError(
                f'kinds gives a duration per kind: {{"address": "30d"}}; got {self.kinds!r}'
            )
        for value in (self.default, *self.kinds.values()):
            duration(value)
        if self.expire_after is not None:
            duration(self.expire_after)

    def freshness(self, fact: Fact | Mapping[str, Any], now: datetime) -> Freshness:
        """Return "fresh", "stale" or "expired" as of `now`.

        Args:
            fact: A Fact, or the value of its store item. Its age counts from `last_confirmed`,
                else `last_updated`; a fact with neither is stale, since nothing vouches for it.
            now: A time; one without a zone is taken as UTC.
        """
        read = fact.get if isinstance(fact, Mapping) else lambda name: getattr(fact, name, None)
        now = as_utc(now) or now
        until = as_utc(read("valid_to"))
        if (read("status") or "current") != "current" or (until is not None and until <= now):
            return "expired"
        seen = as_utc(read("last_confirmed")) or as_utc(read("last_updated"))
        if seen is None:
            return "stale"
        age = now - seen
        if self.expire_after is not None and age > duration(self.expire_after):
            return "expired"
        limit = duration(self.kinds.get(read("kind") or "", self.default))
        return "stale" if age > limit else "fresh"
