"""`python -m benchmarks qa` on a scripted model behind a local server."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from benchmarks.__main__ import main
from benchmarks.qa import SUMMARY, TRIMMED, Spent, all_of, dated, replies
from benchmarks.talks import load_talks
from benchmarks.tokens import FULL, MEMKIT
from memkit import count_tokens
from tests.haystacks import HAYSTACKS
from tests.openai_server import completion, openai_server

PARROT = "My parrot is called Captain Flint, he can whistle three songs."
TALK = {
    1: [("Ute", f"Hi Ben! {PARROT}"), ("Ben", "Ha, lovely.")],
    2: [
        (who, f"Week {n} of the rain, we stayed in, cooked soup and played cards until late.")
        for n, who in enumerate(["Ben", "Ute"] * 20)
    ],
}
QUESTIONS = [
    ("What is the parrot called?", "Captain Flint", "D1:1", 4),
    ("Which soup is meant?", "no idea, really", "D2:1", 1),
]


@pytest.fixture(scope="module")
def locomo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    said: dict[str, Any] = {"speaker_a": "Ute", "speaker_b": "Ben"}
    for number, lines in TALK.items():
        said[f"session_{number}_date_time"] = f"1:56 pm on {number} May, 2023"
        said[f"session_{number}"] = [
            {"speaker": who, "dia_id": f"D{number}:{n}", "text": text}
            for n, (who, text) in enumerate(lines, 1)
        ]
    asked = [
        {"question": question, "answer": answer, "evidence": [line], "category": category}
        for question, answer, line, category in QUESTIONS
    ]
    path = tmp_path_factory.mktemp("data") / "talk.json"
    path.write_text(json.dumps([{"sample_id": "t", "conversation": said, "qa": asked}]))
    return path


def told(text: str, prompt_tokens: int = 0) -> dict[str, Any]:
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": 3, "total_tokens": 0}
    return {**completion(text), "usage": usage}


def scripted(request: dict[str, Any]) -> dict[str, Any]:
    """Know the parrot where the prompt tells of it; judge by equal words; sum up weather."""
    prompt = "\n".join(str(message["content"]) for message in request["messages"])
    if found := re.search(r"Reference: (.*)\nAnswer: (.*)\n", prompt):
        return told("yes" if found[1] == found[2] else "No.")
    if "asked about conversations" in prompt:
        # What it is shown of the question alone does not tell the name.
        return told("Captain Flint" if PARROT in prompt else "Not known.", 100)
    return told("It rained for weeks, they cooked soup and played cards.", 50)


@pytest.mark.slow
def test_who_shows_the_evidence_is_right_and_pays_for_what_it_shows(
    locomo: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    output, picture = tmp_path / "a.json", tmp_path / "a.png"
    with openai_server(scripted) as (url, requests):
        arguments = ["qa", "--data", str(locomo), "--base-url", url, "--model", "tiny"]
        arguments += ["--judge", "stern", "--prices", "2", "10", "--max-tokens", "500"]
        arguments += ["--json", str(output), "--plot", str(picture)]
        assert main(arguments) == 0, capsys.readouterr().err
    report = json.loads(output.read_text())
    systems, settings = report["systems"], report["settings"]
    assert list(systems) == [MEMKIT, FULL, TRIMMED, SUMMARY]
    assert (settings["model"], settings["judge"]) == ("tiny", "stern")
    for name, right in ((MEMKIT, 0.5), (FULL, 0.5), (TRIMMED, 0), (SUMMARY, 0)):
        figures = systems[name]
        assert figures["judge"] == figures["f1"] == right, name
        assert figures["category_4_judge"] == 2 * right
        assert figures["category_1_judge"] == figures["failed"] == figures["unclear"] == 0
        # As the server told them.
        assert figures["prompt_tokens_per_question"] == 100
        assert figures["usd_per_question"] == pytest.approx((100 * 2 + 3 * 10) / 1e6)
    assert systems[MEMKIT]["prepare_tokens"] == systems[FULL]["prepare_tokens"] == 0
    assert systems[SUMMARY]["prepare_tokens"] % 53 == 0
    assert systems[SUMMARY]["prepare_tokens"] > 0
    assert picture.stat().st_size > 10_000
    judged = [r for r in requests if r["model"] == "stern" and "Reference" in str(r["messages"])]
    assert len(judged) == 4 * len(QUESTIONS)
    answering = [r["messages"] for r in requests if "asked about conversations" in str(r)]
    assert len(answering) == 4 * len(QUESTIONS)
    assert all("Today is 2023-05-03." in prompt[0]["content"] for prompt in answering)


@pytest.mark.slow
def test_haystacks_are_asked_what_they_do_not_hold_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    data, output = tmp_path / "haystacks.json", tmp_path / "a.json"
    data.write_text(json.dumps(HAYSTACKS[:2]))

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        prompt = "\n".join(str(message["content"]) for message in request["messages"])
        if "Reference:" in prompt:  # a judge that heeds what it is told of the question
            return told("yes" if "do not hold the answer" in prompt else "I cannot tell")
        return told("Flint")

    with openai_server(answer) as (url, _):
        arguments = ["qa", "--data", str(data), "--base-url", url, "--json", str(output)]
        assert main(arguments) == 0, capsys.readouterr().err
    for figures in json.loads(output.read_text())["systems"].values():
        assert figures["questions"] == 2
        assert figures["category_multi-session_judge"] == 1
        assert figures["category_single-session-user_judge"] == 0
        assert (figures["unclear"], figures["f1"]) == (1, 1)  # F1 of the one that has an answer
        assert "category_multi-session_f1" not in figures


def test_a_reply_that_does_not_come_is_a_failure_and_costs_nothing() -> None:
    def refuses(request: dict[str, Any]) -> dict[str, Any] | int:
        return 400 if "long" in request["messages"][-1]["content"] else told("Flint.")

    spent = Spent()
    with openai_server(refuses) as (url, _):
        model = ChatOpenAI(model="m", base_url=url, api_key=SecretStr("none"), max_retries=0)
        prompts: list[list[BaseMessage]] = [
            [HumanMessage("short")],
            [SystemMessage("s"), HumanMessage("very long")],
        ]
        assert replies(model, prompts, [spent]) == ["Flint.", None]
    # The server told no tokens of the prompt: they are counted.
    assert spent.prompt_tokens == count_tokens(prompts[0])
    assert spent.reply_tokens == count_tokens("Flint.")
    assert spent.usd((2.0, 10.0)) == pytest.approx(
        (2 * spent.prompt_tokens + 10 * spent.reply_tokens) / 1e6
    )


def test_days_stand_before_every_message_or_at_the_head_of_a_session(locomo: Path) -> None:
    (talk,) = load_talks(locomo)
    every, heads = all_of(dated(talk)), all_of(dated(talk, heads=True))
    assert len(every) == len(heads) == sum(map(len, TALK.values()))
    assert every[0].content == heads[0].content == f"(2023-05-01) Ute: Hi Ben! {PARROT}"
    assert every[1].content == "(2023-05-01) Ben: Ha, lovely."
    assert heads[1].content == "Ben: Ha, lovely."
    assert str(heads[2].content).startswith("(2023-05-02) Ben: Week 0")
    assert every[0].name is None


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["qa"], "qa needs a model"),
        (["qa", "--model", "m", "--base-url", "http://127.0.0.1:9/v1"], "does not answer"),
        (["qa", "--max-tokens", "100"], "a budget of 500 tokens or more"),
        (["recall", "--judge", "m"], "leave out --judge"),
    ],
)
def test_what_cannot_be_used_is_one_line(
    arguments: list[str],
    told: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    assert main(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line


def test_a_price_is_a_number(capsys: pytest.CaptureFixture[str]) -> None:
    for price in ("-1", "inf", "free"):
        with pytest.raises(SystemExit):
            main(["qa", "--prices", price, "1"])
    assert "must be a price" in capsys.readouterr().err
