"""What a provider can take from its cache: the shared prefix of prompts, and what it saves.

OpenAI's rule for gpt-4o: a prefix of at least 1,024 tokens, in steps of 128, at half the price.
Source: https://openai.com/index/api-prompt-caching/
"""

import itertools
from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

from memkit.tokens import TokenCounter

CACHE_LEAST = 1_024
CACHE_STEP = 128
USD_PER_TOKEN = 2.50 / 1_000_000
USD_PER_CACHED_TOKEN = 1.25 / 1_000_000
PRICES = "https://openai.com/index/api-prompt-caching/"


def shared_prefixes(prompts: Sequence[Sequence[BaseMessage]]) -> tuple[list[int], list[int]]:
    """Return the tokens of each prompt, and of the messages at its head that the last one had."""
    counter = TokenCounter.for_model("gpt-4o")
    totals, shared = [], []
    previous: list[Any] = []
    for prompt in prompts:
        sizes = counter.sizes(prompt)
        now = [_as_sent(message) for message in prompt]
        same = itertools.takewhile(
            lambda pair: pair[0] == pair[1], zip(now, previous, strict=False)
        )
        shared.append(sum(sizes[: len(list(same))]))
        totals.append(counter.messages(prompt))
        previous = now
    return totals, shared


def billed_as_cached(tokens: int) -> int:
    """Return how many tokens of a shared prefix the provider takes from its cache."""
    if tokens < CACHE_LEAST:
        return 0
    return tokens - (tokens - CACHE_LEAST) % CACHE_STEP


def _as_sent(message: BaseMessage) -> tuple[Any, ...]:
    """Return what of a message the provider sees."""
    return (
        message.type,
        message.name,
        message.content,
        message.tool_calls if isinstance(message, AIMessage) else None,
        message.tool_call_id if isinstance(message, ToolMessage) else None,
    )
