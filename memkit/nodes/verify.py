"""StaleFactCheck: which of the recalled facts may be relied on."""

from collections import Counter
from typing import Any

from memkit.effects import Body
from memkit.facts import StalenessPolicy
from memkit.nodes.base import MemoryNode, Update, Visit, check_type


class StaleFactCheck(MemoryNode):
    """Judges recalled facts by when the person last confirmed them.

    A stale fact stays and is marked in the prompt ("confirm before relying on it"); an expired one
    is left out.

    Args:
        policy: How long each kind of fact stays fresh.
        recalled_key: The state key of the recalled memories.
        keep_expired: Leave expired ones in, marked.
        kwargs: See MemoryNode.

    State:
        Reads messages, recalled, memory; writes `recalled` and `memory["verify"]`, the counts.

    Events:
        `{"memkit": "StaleFactCheck", "stale": [keys], "expired": [keys]}` if there are any.
    """

    def __init__(
        self,
        policy: StalenessPolicy | None = None,
        *,
        recalled_key: str = "recalled",
        keep_expired: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.policy = StalenessPolicy() if policy is None else policy
        check_type("policy", self.policy, StalenessPolicy)
        self.recalled_key = recalled_key
        self.keep_expired = keep_expired

    @property
    def writes(self) -> tuple[str, ...]:
        """The state keys this node writes."""
        return (self.recalled_key, self.memory_key)

    def body(self, visit: Visit) -> Body[Update]:
        """Judge each fact; asks nothing of the outside."""
        yield from ()
        now = self.now(self.messages(visit))
        judged = [
            {**item, "freshness": self._judge(item, now)}
            for item in visit.read(self.recalled_key) or []
        ]
        by_freshness = {
            word: [item["key"] for item in judged if item["freshness"] == word]
            for word in ("stale", "expired")
        }
        if any(by_freshness.values()):
            visit.emit(**by_freshness)
        counts = Counter(item["freshness"] for item in judged)
        kept = [i for i in judged if self.keep_expired or i["freshness"] != "expired"]
        report = {"checked_at": now.isoformat(), **dict(sorted(counts.items()))}
        return {self.recalled_key: kept, **self.with_cursor(visit, "verify", report)}

    def _judge(self, item: dict[str, Any], now: Any) -> str:
        # A turn from which no fact was taken says what was said on its day, and does not age.
        if item["kind"] == "turn" or item["freshness"] == "expired":
            return str(item["freshness"])
        return self.policy.freshness(item, now)
