"""When a checkpoint was made. Pure."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

# UUIDs count steps of 100 ns from the first day of the Gregorian calendar.
_START = datetime(1582, 10, 15, tzinfo=UTC)


def moment(ts: object, checkpoint_id: str) -> datetime | None:
    """Return when a checkpoint was made: by its `ts`, else by its id; None if neither tells."""
    if isinstance(ts, str):
        try:
            at = datetime.fromisoformat(ts)
        except ValueError:
            pass
        else:
            return at if at.tzinfo else at.replace(tzinfo=UTC)
    return time_of_id(checkpoint_id)


def time_of_id(checkpoint_id: str) -> datetime | None:
    """Return the time in a UUID of version 6, which is what LangGraph's ids are; else None."""
    try:
        uuid = UUID(checkpoint_id)
    except ValueError:
        return None
    if uuid.version != 6:
        return None
    # The 60 bits of time, highest first, with the version in between.
    ticks = (uuid.int >> 80) << 12 | (uuid.int >> 64 & 0xFFF)
    return _START + timedelta(microseconds=ticks // 10)
