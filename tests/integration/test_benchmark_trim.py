"""`python -m benchmarks trim`: a quick run, and each of its judges on prompts made by hand."""

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolCall,
    ToolMessage,
)

from benchmarks.__main__ import main
from benchmarks.conversations import chat, conversation, errands, model_calls, with_orphans
from benchmarks.peers import LANGMEM, Session
from benchmarks.prompt_cache import billed_as_cached, shared_prefixes
from benchmarks.report import Report, table
from benchmarks.trim import (
    APPROXIMATE,
    START_ON,
    TIKTOKEN,
    TRIM,
    TRIMMER,
    VIOLATIONS,
    System,
    broken_promises,
    cached,
    has_orphans,
    integrated_s,
    violations,
)
from memkit import count_tokens
from tests.benchmark_runs import quick_run
from tests.conversations import assert_valid


@pytest.mark.slow
def test_a_quick_run(tmp_path: Path) -> None:
    report, done = quick_run("trim", tmp_path)
    assert report["settings"]["usd_per_million_tokens"]["source"].startswith("https://openai.com/")
    systems = report["systems"]
    assert list(systems)[:5] == [TRIMMER, TRIM, APPROXIMATE, START_ON, TIKTOKEN]
    for name, figures in systems.items():
        for metric in ("calls", "cached_share", "input_tokens", "cost_usd", *VIOLATIONS):
            assert metric in figures, (name, metric)
            assert metric in done.stdout
        assert figures["calls"] == systems[TRIM]["calls"] > 100
        if name != START_ON:
            for metric in ("turn_ms_100", "turn_ms_1000", "first_ms_1000", "peak_mb_1000"):
                assert figures[metric] > 0, (name, metric)
            assert figures["conversation_s_1000"] > figures["conversation_s_100"] > 0
    for name in (TRIMMER, TRIM):
        assert {metric: systems[name][metric] for metric in VIOLATIONS} == dict.fromkeys(
            VIOLATIONS, 0
        )
    assert systems[APPROXIMATE]["orphan_rate"] > 0
    assert systems[APPROXIMATE]["over_budget_rate"] > 0
    assert systems[TRIMMER]["cached_share"] > systems[TIKTOKEN]["cached_share"]
    assert systems[TRIMMER]["turn_ms_1000"] < systems[TIKTOKEN]["turn_ms_1000"]
    assert {"warm_ratio_1000_100", "new_messages_encode_ms"} <= systems[TRIMMER].keys()
    assert {"first_ratio", "encode_kept_ms", "trim_seen_ms_1000"} <= systems[TRIM].keys()


def test_a_full_run_says_which_peer_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "langmem", None)
    assert main(["trim"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "langmem" in line
    assert "pip install 'memkit[bench]'" in line


@pytest.mark.parametrize("arguments", [["--max-tokens", "500"], ["--data", "file.json"]])
def test_what_trim_does_not_take_is_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["trim", "--quick", *arguments]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "leave out --data and --max-tokens" in line


# -- the generator -----------------------------------------------------------------------------


def test_conversations_are_valid_and_grow_at_their_end() -> None:
    kinds = {"parallel": 0, "shuffled": 0, "parts": 0, "picture": 0, "empty": 0, "giant": 0}
    kinds |= {"named": 0, "timed": 0, "system later": 0, "no reply": 0}
    for seed in range(150):
        messages = conversation(seed, 6)
        assert_valid(messages)
        shorter = conversation(seed, 4)
        assert messages[: len(shorter)] == shorter
        assert len({message.id for message in messages}) == len(messages)
        assert sum(isinstance(message, HumanMessage) for message in messages) == 6
        for i, message in enumerate(messages):
            follower = messages[i + 1] if i + 1 < len(messages) else None
            if isinstance(message, AIMessage) and len(message.tool_calls) > 1:
                kinds["parallel"] += 1
                assert isinstance(follower, ToolMessage)
                kinds["shuffled"] += follower.tool_call_id != message.tool_calls[0]["id"]
            kinds["parts"] += isinstance(message.content, list)
            kinds["picture"] += "image_url" in str(message.content)
            kinds["empty"] += message.content == ""
            kinds["giant"] += message.type == "tool" and len(message.content) > 2_000
            kinds["named"] += message.name is not None
            kinds["timed"] += "timestamp" in message.additional_kwargs
            kinds["system later"] += isinstance(message, SystemMessage) and i > 3
            kinds["no reply"] += message.type == follower.type == "human" if follower else 0
    assert all(count > 5 for count in kinds.values()), kinds


def test_damage_touches_tool_traffic_only() -> None:
    broken = 0
    for seed in range(100):
        messages = conversation(seed, 5)
        before = [message.model_copy(deep=True) for message in messages]
        damaged = with_orphans(messages, seed)
        assert messages == before
        assert damaged == with_orphans(messages, seed)
        assert [m for m in damaged if m.type in ("human", "system")] == [
            m for m in messages if m.type in ("human", "system")
        ]
        assert len({message.id for message in damaged}) == len(damaged)
        broken += has_orphans(damaged)
    assert broken > 80
    plain = chat(9)
    assert with_orphans(plain, 0) == plain


def test_chats_have_the_asked_length_and_size() -> None:
    said = chat(101, seed=5)
    assert len(said) == 101
    assert [message.type for message in said[:3]] == ["system", "human", "ai"]
    assert said[:50] == chat(50, seed=5)
    assert len({str(message.content) for message in said}) == 101
    assert not {str(m.content) for m in said} & {str(m.content) for m in chat(101, seed=6)}
    assert 35 < count_tokens(said) / 101 < 45
    assert_valid(errands(50))
    assert any(isinstance(message, ToolMessage) for message in errands(50))


def call(*ids: str) -> AIMessage:
    return AIMessage(
        "", id=f"call-{ids[0]}", tool_calls=[ToolCall(name="f", args={}, id=i) for i in ids]
    )


def result(call_id: str, name: str = "") -> ToolMessage:
    return ToolMessage("found", tool_call_id=call_id, id=name or f"result-{call_id}")


HUMAN = HumanMessage("Where is it?", id="h")
RULES = SystemMessage("Be kind.", id="s")


def test_a_model_is_called_after_a_human_message_and_after_the_last_result() -> None:
    messages = [RULES, HUMAN, call("a", "b"), result("b"), result("a"), AIMessage("There.")]
    assert [len(prefix) for prefix in model_calls(messages)] == [2, 5]
    lost = [HUMAN, call("a", "b"), result("a"), HumanMessage("So?")]
    assert [len(prefix) for prefix in model_calls(lost)] == [1, 4]


# -- the judges --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "broken"),
    [
        ([RULES, HUMAN, call("a", "b"), result("b"), result("a")], False),
        ([HUMAN], False),
        ([RULES, result("a"), HUMAN], True),
        ([HUMAN, call("a", "b"), result("a")], True),
        ([HUMAN, call("a", "b"), result("a"), HumanMessage("So?")], True),
        ([HUMAN, call("a"), result("a"), result("a", "again")], True),
        ([HUMAN, result("a"), call("a")], True),
        ([HUMAN, call("a"), HUMAN, result("a")], True),
    ],
)
def test_orphans_are_seen(prompt: list[BaseMessage], broken: bool) -> None:
    assert has_orphans(prompt) is broken


def test_each_broken_promise_is_told_apart() -> None:
    history = [RULES, HumanMessage("Hello.", id="first"), AIMessage("Hi.", id="a"), HUMAN]
    tokens = count_tokens(history)
    assert broken_promises(history, history, tokens) == []
    assert broken_promises(history, [RULES, HUMAN], tokens) == []
    assert broken_promises(history, [], tokens) == ["empty_rate"]
    assert broken_promises(history, history[:3], tokens) == ["lost_latest_rate"]
    assert broken_promises(history, history[1:], tokens) == ["lost_system_rate"]
    assert broken_promises(history, history, tokens - 1) == ["over_budget_rate"]
    assert broken_promises(history, history, tokens // 2) == [
        "over_budget_rate",
        "over_budget_by_tenth_rate",
    ]
    assert broken_promises(history, [*history, result("x")], 10**6) == ["orphan_rate"]


def last_four(max_tokens: int) -> Session:
    """A system as people write it first: no budget, no pairs, no system messages."""
    return lambda history: history[-4:]


def failing(max_tokens: int) -> Session:
    def view(history: list[BaseMessage]) -> Sequence[BaseMessage]:
        raise ValueError("always")

    return view


def nothing(max_tokens: int) -> Session:
    return lambda history: []


def test_bad_systems_are_caught() -> None:
    bad = {"last four": System(last_four), "failing": System(failing), "nothing": System(nothing)}
    found = violations(bad, 12)
    for metric in ("orphan_rate", "over_budget_rate", "lost_latest_rate", "lost_system_rate"):
        assert 0 < found["last four"][metric] < 1, metric
    assert found["last four"]["error_rate"] == found["last four"]["empty_rate"] == 0
    assert found["nothing"]["empty_rate"] == found["failing"]["error_rate"] == 1
    assert found["failing"]["empty_rate"] == 0
    assert {figures["calls"] for figures in found.values()} == {found["failing"]["calls"]}


def test_shared_prefixes_count_whole_messages_as_they_are_sent() -> None:
    copies: list[BaseMessage] = [
        message.model_copy(update={"id": "another"}) for message in (RULES, HUMAN)
    ]
    longer: list[BaseMessage] = [*copies, AIMessage("Here."), HumanMessage("Thanks.")]
    cut: list[BaseMessage] = [RULES, HumanMessage("Thanks.")]
    renamed: list[BaseMessage] = [RULES, HumanMessage("Thanks.", name="Ute")]
    prompts: list[list[BaseMessage]] = [[RULES, HUMAN], longer, cut, renamed, renamed]
    totals, shared = shared_prefixes(prompts)
    assert totals == [count_tokens(prompt) for prompt in prompts]
    reply = 3  # tokens that prime the reply and belong to no message
    head = count_tokens([RULES]) - reply
    assert shared == [0, totals[0] - reply, head, head, totals[4] - reply]
    calls: list[list[BaseMessage]] = [[call("a")], [call("b")], [result("a")], [result("b")]]
    assert shared_prefixes(calls)[1] == [0, 0, 0, 0]


def test_a_cache_takes_prefixes_from_1024_tokens_in_steps_of_128() -> None:
    assert [billed_as_cached(n) for n in (0, 1_023, 1_024, 1_151, 1_152, 1_300)] == (
        [0, 0, 1_024, 1_024, 1_152, 1_280]
    )


def test_what_a_cache_saves() -> None:
    long = [SystemMessage("word " * 2_000), *chat(9)[1:]]
    whole = cached(System(lambda _: lambda history: history), long, 10**6)
    prompts = list(model_calls(long))
    assert whole["input_tokens"] == sum(count_tokens(prompt) for prompt in prompts)
    assert "cached_share_after_first_cut" not in whole
    full_price = whole["input_tokens"] * 2.5e-6
    assert whole["cost_usd"] + whole["saved_usd"] == pytest.approx(full_price)
    # Three of four prompts come from the cache but for their last turn, at half the price.
    assert full_price * 0.3 < whole["saved_usd"] < full_price * 0.375
    none = cached(System(lambda _: lambda history: history[-1:]), long, 10**6)
    assert none["cached_share"] == none["saved_usd"] == none["cached_share_after_first_cut"] == 0


def test_a_conversation_is_integrated_from_its_turns() -> None:
    constant = integrated_s({100: 2.0, 1_000: 2.0}, 1_000)
    assert constant == pytest.approx((50 * 1 + 450 * 2) / 1000)
    linear = {n: n / 100 for n in (100, 1_000, 10_000)}
    assert integrated_s(linear, 1_000) == pytest.approx(
        sum(n / 100 for n in range(2, 1_001, 2)) / 1000, rel=0.01
    )


def test_a_wide_table_breaks_the_names_of_systems() -> None:
    names = (TRIMMER, TRIM, APPROXIMATE, START_ON, TIKTOKEN, LANGMEM)
    lines = table(Report("trim", {name: {"turn_ms_10000": 0.25} for name in names}, 0)).splitlines()
    assert max(map(len, lines)) < 110
    peers = ["trim_messages"] * 3
    assert lines[0].split() == ["trim", "memkit", "memkit", *peers, "LangMem"]
    assert lines[1].split() == [
        *("TokenTrimmer", "trim", "approximate", "start_on", "tiktoken", "node")
    ]
    assert lines[3].split() == ["turn_ms_10000", *["0.25"] * 6]
