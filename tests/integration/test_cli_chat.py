"""`memkit chat` and `memkit doctor`, as they are called."""

import io
import json
from typing import Any

import pytest

from memkit.cli import main
from tests.fakes import Terminal
from tests.openai_server import completion, openai_server

ANN = ["chat", "--user", "ann"]
HOSTILE = "I have a \x1b[31mred\x1b[0m bike \u202eback."


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    def put(*lines: str) -> None:
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))

    return put


def test_without_a_model_the_best_memory_answers(
    dsn: str, typed: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    typed(
        "I live at 14 Linden Street in Leipzig.",
        "",
        "/new",
        "Where do I live?",
        "I moved to 3 Harbour Road in Kiel.",
        "/facts",
        "/context",
        "/what",
        "/quit",
        "I am not read any more.",
    )
    assert main([*ANN, "--dsn", dsn]) == 0
    out = capsys.readouterr().out
    assert "I remember nothing about that.\n" in out
    assert "  facts     + I live at 14 Linden Street in Leipzig.\n" in out
    assert ": I live at 14 Linden Street in Leipzig.\n  context " in out
    assert "  facts     - I live at 14 Linden Street in Leipzig.\n" in out
    assert "  facts     + I moved to 3 Harbour Road in Kiel.\n" in out
    assert "\n  I moved to 3 Harbour Road in Kiel.\n" in out  # /facts
    assert "[human]\nI moved to 3 Harbour Road in Kiel.\n" in out  # /context
    assert "/quit     the end" in out
    assert "not read" not in out


def test_for_programs(dsn: str, typed: Any, capsys: pytest.CaptureFixture[str]) -> None:
    typed("I have a dog called Rex.", "I have a dog called Rex.")
    assert main([*ANN, "--dsn", dsn, "--json", "--thread", "t", "--max-tokens", "500"]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert first["facts"] == [{"change": "+", "text": "I have a dog called Rex."}]
    assert second["facts"] == [{"change": "=", "text": "I have a dog called Rex."}]
    assert 0 < first["tokens"] < second["tokens"] <= 500
    assert first["thread_id"] == "t"
    typed("What is my dog called?")
    assert main([*ANN, "--dsn", dsn, "--json", "--thread", "t"]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] > second["tokens"]  # the thread goes on
    typed("What is my dog called?")
    assert main([*ANN, "--dsn", dsn, "--json"]) == 0
    elsewhere = json.loads(capsys.readouterr().out)
    assert [memory["text"] for memory in elsewhere["recalled"]] == ["I have a dog called Rex."]


def test_hostile_text_steers_no_terminal(
    dsn: str, typed: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    typed(HOSTILE, "What have I?", "/facts", "/context", "/\x1b[2J")
    assert main([*ANN, "--dsn", dsn]) == 0
    out = capsys.readouterr().out
    assert r"\x1b[31mred" in out
    assert not any(not char.isprintable() and char != "\n" for char in out)


def test_a_model_answers_and_its_failures_are_told(
    dsn: str, typed: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(body: dict[str, Any]) -> dict[str, Any] | int:
        if "Fail" in str(body["messages"][-1]["content"]):
            return 400
        return completion("Nice to\nmeet you, \x1b[31mAnn.")

    with openai_server(answer) as (url, requests):
        asked = [*ANN, "--dsn", dsn, "--model", "m", "--base-url", url]
        typed("Hello, I live in Kiel.")
        assert main(asked) == 0
        out = capsys.readouterr().out
        assert "m; thread chat-" in out
        assert out.count("Nice to\nmeet you, \\x1b[31mAnn.\n") == 1
        assert any(request.get("stream") for request in requests)
        typed("Fail.", "Are you there?")
        assert main(asked) == 0
        out, err = capsys.readouterr()
        assert "memkit: error: " in err
        assert "400" in err
        assert out.count("Nice to\n") == 1
        typed("Fail.")
        assert main(asked) == 1


def test_who_asks_for_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", "--no-model", "--model", "m"]) == 1
    assert "contradicts" in capsys.readouterr().err


def checks(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, str]]:
    return {check["check"]: check for check in json.loads(capsys.readouterr().out)}


def test_doctor_says_what_to_do(
    empty_dsn: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    doctor = ["doctor", "--dsn", empty_dsn, "--json"]
    assert main(doctor) == 1  # not set up
    found = checks(capsys)
    assert found["store"]["verdict"] == "FAILED"
    assert found["store"]["fix"] == "memkit setup --dsn ..."
    assert found["database"]["found"].startswith("PostgreSQL")
    assert found["extension"]["found"].startswith("pgvector")
    assert found["tokens"]["found"] == "o200k_base, exact"
    assert main(["setup", "--dsn", empty_dsn]) == 0
    capsys.readouterr()
    assert main(doctor) == 0
    capsys.readouterr()
    with openai_server(lambda _: completion("yes")) as (url, _):
        assert main([*doctor, "--model", "m", "--base-url", url]) == 0
    assert checks(capsys)["model"]["found"] == "m answers"
    assert main([*doctor, "--model", "m", "--base-url", "http://127.0.0.1:1/v1"]) == 1
    found = checks(capsys)
    assert "does not answer" in found["model"]["found"]
    assert "--base-url" in found["model"]["fix"]
    assert main(["doctor", "--dsn", "postgresql://x@127.0.0.1:1/x"]) == 1
    assert "see that the server runs" in capsys.readouterr().out


def test_a_terminal_gets_a_prompt(
    dsn: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal("I row.\n"))
    assert main([*ANN, "--dsn", dsn, "--no-model"]) == 0
    assert capsys.readouterr().out.count("> ") == 2
