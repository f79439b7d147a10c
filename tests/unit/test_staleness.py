"""When a fact is too old to be relied on."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from memkit import StalenessPolicy
from memkit.errors import ConfigError
from memkit.facts import Fact, duration

MARCH = datetime(2026, 3, 1, tzinfo=UTC)
MAY = datetime(2026, 5, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def test_freshness_follows_the_last_confirmation() -> None:
    policy = StalenessPolicy(default="90d", kinds={"address": "30d"}, expire_after="1y")
    fact = Fact("I live in A", kind="address", last_updated=MARCH, last_confirmed=MARCH)
    assert policy.freshness(fact, MARCH + 30 * DAY) == "fresh"
    assert policy.freshness(fact, MARCH + 31 * DAY) == "stale"
    assert policy.freshness(fact.to_value(), MARCH + 31 * DAY) == "stale"
    assert policy.freshness(fact.changed(kind="job"), MARCH + 31 * DAY) == "fresh"
    assert policy.freshness(fact, MARCH + 400 * DAY) == "expired"
    confirmed = fact.changed(last_confirmed=MAY)
    assert policy.freshness(confirmed, MAY + DAY) == "fresh"
    assert policy.freshness(fact.changed(valid_to=MARCH), MAY) == "expired"
    assert policy.freshness(fact.changed(status="superseded"), MARCH) == "expired"
    assert policy.freshness(Fact("I live in A"), MARCH) == "stale"


def test_an_attribute_goes_before_its_kind_and_that_before_the_default() -> None:
    policy = StalenessPolicy(
        default="P90D", kinds={"work": "P30D"}, attributes={"employer": timedelta(days=10)}
    )
    assert policy.max_age("work", "employer") == 10 * DAY
    assert policy.max_age("work", "title") == policy.max_age("work") == 30 * DAY
    assert policy.max_age("pet", None) == policy.max_age(None) == 90 * DAY
    fact = Fact("I work at X", kind="work", attribute="employer", last_updated=MARCH)
    for value in (fact, fact.to_value()):
        assert policy.freshness(value, MARCH + 10 * DAY) == "fresh"
        assert policy.freshness(value, MARCH + 11 * DAY) == "stale"


def test_what_never_goes_stale_ends_only_by_its_interval_or_status() -> None:
    policy = StalenessPolicy(attributes={"birthday": "never"}, expire_after="1y")
    fact = Fact("My birthday is 3 May", attribute="birthday", last_updated=MARCH)
    assert policy.max_age("statement", "birthday") is None
    assert policy.freshness(fact, MARCH + 9999 * DAY) == "fresh"
    assert policy.freshness(fact.changed(valid_to=MAY), MAY) == "expired"
    assert policy.freshness(fact.changed(status="retracted"), MAY) == "expired"
    assert StalenessPolicy("never", expire_after="never").freshness(fact, MAY) == "fresh"


def test_times_are_compared_across_zones() -> None:
    policy = StalenessPolicy(default="PT12H")
    fact = Fact("x", last_confirmed=datetime(2026, 5, 1, 8, tzinfo=timezone(timedelta(hours=9))))
    tokyo, lima = timezone(timedelta(hours=9)), timezone(timedelta(hours=-5))
    # 08:00 in Tokyo is 18:00 of the day before in Lima; twelve hours later it is 06:00 there.
    assert policy.freshness(fact, datetime(2026, 5, 1, 20, tzinfo=tokyo)) == "fresh"
    assert policy.freshness(fact, datetime(2026, 5, 1, 6, tzinfo=lima)) == "fresh"
    assert policy.freshness(fact, datetime(2026, 5, 1, 6, 1, tzinfo=lima)) == "stale"
    # A time without a zone is UTC.
    assert policy.freshness(fact, datetime(2026, 5, 1, 11)) == "fresh"  # noqa: DTZ001 - the case
    assert policy.freshness(fact, datetime(2026, 5, 1, 11, 1)) == "stale"  # noqa: DTZ001


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30m", timedelta(minutes=30)),
        ("12h", timedelta(hours=12)),
        ("1.5d", timedelta(hours=36)),
        ("2w", timedelta(days=14)),
        ("1y", timedelta(days=365)),
        ("PT12H", timedelta(hours=12)),
        ("P90D", timedelta(days=90)),
        ("P2W", timedelta(days=14)),
        ("P1Y2M", timedelta(days=365 + 60)),
        ("PT1M", timedelta(minutes=1)),
        (" P1DT2H ", timedelta(days=1, hours=2)),
        (timedelta(days=3), timedelta(days=3)),
    ],
)
def test_durations_are_read(text: str | timedelta, expected: timedelta) -> None:
    assert duration(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "90", "d", "-1d", "0d", "3 months", "P", "PT", "P0D", "P-1D", "-P1D", "P1X", "p90d", "٣d"],
)
def test_a_duration_that_cannot_be_read_is_an_error(text: str) -> None:
    with pytest.raises(ConfigError):
        duration(text)
    with pytest.raises(ConfigError):
        StalenessPolicy(default=text)


@pytest.mark.parametrize(
    "arguments",
    [
        {"kinds": None},
        {"kinds": ["address"]},
        {"kinds": {1: "30d"}},
        {"kinds": {"address": 30}},
        {"attributes": None},
        {"attributes": {None: "30d"}},
        {"attributes": {"job": "always"}},
        {"default": 5},
        {"default": None},
        {"default": []},
        {"default": "99999999999999d"},
        {"default": "9" * 400 + "s"},
        {"default": "P" + "9" * 400 + "D"},
        {"expire_after": 5},
        {"expire_after": []},
    ],
)
def test_a_staleness_policy_is_checked_when_built(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"duration|kinds|attributes"):
        StalenessPolicy(**arguments)
