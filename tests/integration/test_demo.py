"""`memkit demo` as a person runs it: end to end, killed and gone on, with a model, and misused."""

import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from memkit.cli import main
from memkit.demo import replay
from memkit.demo.conversations import (
    Conversation,
    Line,
    Question,
    Session,
    load_locomo,
    load_story,
)
from memkit.demo.replay import Closing, Event, KeptFact, QuestionAnswered, SessionEnded
from memkit.demo.screen import Screen
from tests.openai_server import completion, openai_server

pytestmark = pytest.mark.slow

TIMEOUT_S = 120
KILLS = 2


def environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("OPENAI_")}
    return {**kept, "COLUMNS": "100", "PYTHONUNBUFFERED": "1"}


def command(data_dir: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "memkit.cli", "demo", "--data-dir", str(data_dir), *arguments]


def run(data_dir: Path, *arguments: str) -> str:
    done = subprocess.run(
        command(data_dir, *arguments),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, float]:
    """The shipped story, replayed once without interruption."""
    data_dir = tmp_path_factory.mktemp("story")
    started = time.monotonic()
    output = run(data_dir)
    return data_dir, output, time.monotonic() - started


def dump(data_dir: Path) -> dict[str, Any]:
    """Return all that the demo keeps, but for what depends on the clock or on random ids."""
    with replay.opened(data_dir) as memory:
        threads: dict[str, Any] = {}
        for checkpoint in memory.saver.list(None):
            thread = checkpoint.config["configurable"]["thread_id"]
            if thread in threads:
                continue  # the newest comes first
            values = checkpoint.checkpoint["channel_values"]
            threads[thread] = {
                "messages": [m.model_dump(mode="json") for m in values["messages"]],
                "turns": values.get("turns"),
                "summary": values.get("summary"),
                "closing": values.get("closing"),
                "answers": [
                    {**a, "recalled": sorted(item["key"] for item in a["recalled"])}
                    for a in values.get("answers", [])
                ],
            }
        items: dict[str, Any] = {}
        while page := memory.store.search(("users",), limit=500, offset=len(items)):
            for item in page:
                value = dict(item.value)
                source = value.pop("source", {})
                value["source"] = {k: v for k, v in source.items() if k != "checkpoint_id"}
                items["/".join((*item.namespace, item.key))] = value
        return {"threads": threads, "items": items}


def test_the_story_shows_what_memory_does(story: tuple[Path, str, float]) -> None:
    _, output, _ = story
    sessions = load_story().sessions
    assert len(re.findall(r"^Session \d+ · ", output, re.MULTILINE)) == len(sessions)
    figures = re.findall(r"full history mean ([\d,]+).* sent mean ([\d,]+), max ([\d,]+)", output)
    assert len(figures) == len(sessions)
    for full, sent, most in figures[1:]:
        assert int(sent.replace(",", "")) < int(full.replace(",", ""))
        assert int(most.replace(",", "")) <= replay.DEFAULT_MAX_TOKENS
    assert re.search(r"summary +\d+ tokens for the first \d+ messages", output)
    session_5 = output[output.index("Session 5") : output.index("Session 6")]
    assert re.search(r"facts kept +2026-06-15 address +I moved to 8 Harbour Lane", session_5)
    assert re.search(r"superseded +2026-01-14 address +I live at 14 Linden Street", session_5)
    assert re.search(r"stale now +\d+ of \d+ facts", output)
    assert re.search(r"✓ facts 2026-03-09 stale +[\d.]+ I drink peppermint tea", output)
    hits, asked = map(int, re.findall(r"evidence recalled for (\d+) of (\d+)", output)[0])
    assert asked == len(load_story().questions)
    assert hits >= asked - 1
    address = " ".join(output[output.index("What is my current address?") :].split())
    assert re.search(r"answer From 2026-06-15: [^✓]*8 Harbour Lane[^✓]* expected", address)


def test_a_finished_demo_is_shown_again_from_what_is_stored(
    story: tuple[Path, str, float],
) -> None:
    data_dir, output, _ = story
    before = dump(data_dir)
    again = run(data_dir)
    resumed = [line for line in again.splitlines() if not line.strip().startswith("resumed")]
    assert resumed == output.splitlines()
    assert dump(data_dir) == before


def test_killed_at_any_moment_it_goes_on_and_nothing_is_lost_or_doubled(
    story: tuple[Path, str, float], tmp_path: Path
) -> None:
    interrupt(tmp_path)
    moments = random.Random(20261122)  # noqa: S311 - repeatable, not secret
    for _ in range(KILLS):
        process = subprocess.Popen(
            command(tmp_path), env=environment(), stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        with process, process.stdout:
            process.stdout.readline()  # "data directory": imports are done
            time.sleep(moments.uniform(0.0, 4.0))
            process.kill()
    run(tmp_path)
    assert dump(tmp_path) == dump(story[0])


def _heeds_ctrl_c() -> None:
    """Undo what a shell does to its background jobs, which may be where the tests run."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def interrupt(data_dir: Path) -> None:
    """Press Ctrl-C while sessions are played, as a terminal does: to the whole process group."""
    process = subprocess.Popen(
        command(data_dir, "--max-tokens", str(replay.DEFAULT_MAX_TOKENS)),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=_heeds_ctrl_c,  # noqa: PLW1509 - it only sets a signal
    )
    assert process.stdout is not None
    while not process.stdout.readline().startswith("Session"):
        pass
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 130, errors
    assert "the same command goes on" in errors
    assert "Traceback" not in errors


SMALL = [
    {
        "sample_id": name,
        "conversation": {
            "speaker_a": "Ute",
            "speaker_b": "Ben",
            "session_1_date_time": "1:56 pm on 8 May, 2023",
            "session_1": [
                {"speaker": "Ute", "dia_id": "D1:1", "text": "I adopted a parrot, it is green."},
                {"speaker": "Ben", "dia_id": "D1:2", "text": "I sail a wooden boat on the lake."},
                {"speaker": "Ute", "dia_id": "D1:3", "text": "I am learning the accordion."},
            ],
            "session_2_date_time": "9:00 am on 2 June, 2023",
            "session_2": [
                {"speaker": "Ben", "dia_id": "D2:1", "text": "I started a bakery in Bremen."},
                {"speaker": "Ute", "dia_id": "D2:2", "text": "Congratulations, that is great."},
            ],
        },
        "qa": [
            {"question": "Which pet?", "answer": "parrot", "evidence": ["D1:1"], "category": 4},
            {"question": "Which boat?", "answer": "wooden", "evidence": ["D1:2"], "category": 1},
            {"question": "Missing?", "answer": "-", "evidence": ["D"], "category": 2},
        ],
    }
    for name in ("talk-1", "dotted.name")
]


def one_thing(request: dict[str, Any]) -> dict[str, Any]:
    """Answer as a model that says one thing and finds no facts."""
    return completion('{"facts": []}' if "response_format" in request else "A parrot called Kiwi.")


def test_a_locomo_file_is_measured_with_and_without_a_model(tmp_path: Path) -> None:
    data = tmp_path / "small.json"
    data.write_text(json.dumps(SMALL), encoding="utf-8")
    plain = run(tmp_path / "plain", "--data", str(data), "--limit", "1")
    assert re.search(r"4 single-hop +1 +1 +100\.0%", plain)
    assert re.search(r"all +2 +2 +100\.0%", plain)
    assert "left out for want of it: 1" in " ".join(plain.split())
    assert "dotted.name" not in plain

    with openai_server(one_thing) as (url, asked):
        output = run(tmp_path / "model", "--data", str(data), "--model", "tiny", "--base-url", url)
    assert re.search(r"all +4 +4 +100\.0%", output)
    assert {body["model"] for body in asked} == {"tiny"}
    assert any("response_format" in body for body in asked)
    shown = [m["content"] for body in asked for m in body["messages"]]
    assert any("I adopted a parrot" in str(text) for text in shown)
    kept = dump(tmp_path / "model")
    answers = [
        thread["messages"][-1]["content"]
        for name, thread in kept["threads"].items()
        if "/questions/" in name
    ]
    assert answers == ["A parrot called Kiwi."] * 4
    talk = load_locomo(data)[0]
    said = [line.text for session in talk.sessions for line in session.lines]
    threads = [kept["threads"][f"talk-1/{session.id}"] for session in talk.sessions]
    assert [m["content"] for thread in threads for m in thread["messages"]] == said


def test_other_data_under_the_same_name_is_refused_until_fresh(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "small.json"
    data.write_text(json.dumps(SMALL[:1]), encoding="utf-8")
    arguments = ["demo", "--no-model", "--data", str(data), "--data-dir", str(tmp_path / "data")]
    assert main(arguments) == 0
    data.write_text(json.dumps(SMALL[:1]).replace("parrot", "cat"), encoding="utf-8")
    capsys.readouterr()
    assert main(arguments) == 1
    assert "holds another conversation under the name 'talk-1'" in capsys.readouterr().err
    assert main([*arguments, "--fresh", "--yes"]) == 0
    texts = [item.get("text", "") for item in dump(tmp_path / "data")["items"].values()]
    assert any("cat" in text for text in texts)
    assert not any("parrot" in text for text in texts)


def test_a_hostile_conversation_steers_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hostile = "\x1b[31mparrot\x1b]0;title\x07 [bold]\u202e"
    data = tmp_path / "small.json"
    told = json.dumps(SMALL[:1]).replace("parrot", json.dumps(hostile)[1:-1])
    data.write_text(told.replace("talk-1", "talk\\u001b[31m[/]"), encoding="utf-8")
    run = ["demo", "--no-model", "--data", str(data), "--data-dir", str(tmp_path / "data")]
    assert main(run) == 0
    out = capsys.readouterr().out
    assert r"talk\x1b[31m[/]" in out
    assert not any(not char.isprintable() and char != "\n" for char in out)


def test_a_hostile_story_is_drawn_without_steering_a_terminal() -> None:
    hostile = "\x1b[31mparrot\x1b]0;title\x07 [bold]\u202e"
    line = Line("d1", hostile, False, hostile, "2026-05-01T12:00:00+00:00")
    session = Session("s1", "2026-05-01T12:00:00+00:00", (line,))
    question = Question("q1", hostile, hostile, ("d1",), None)
    story = Conversation("c", hostile, False, None, (session,), (question,), line.said_at)
    kept: KeptFact = {
        "text": hostile,
        "kind": hostile,
        "status": "current",
        "last_updated": hostile,
        "freshness": "fresh",
    }
    closing: Closing = {
        "tokens": 1,
        "known": 1,
        "kept": [kept],
        "superseded": [kept],
        "stale": [kept],
    }
    turns: Any = [{"id": "d1", "full": 1, "sent": 1}]
    summary = {"tokens": 1, "text": hostile}
    memory = {**kept, "source": "facts", "score": 1.0, "message_ids": []}
    answer: Any = {"question": "q1", "text": hostile, "sent": 1, "recalled": [memory]}
    events: list[Event] = [
        SessionEnded(session, 1, turns, summary, 1, closing),
        QuestionAnswered(question, answer, hit=True),
    ]
    drawn = io.StringIO()
    Screen(Console(file=drawn, width=200)).show_story(story, events)
    assert drawn.getvalue().count(r"\x1b[31mparrot") >= 8
    assert not any(not char.isprintable() and char != "\n" for char in drawn.getvalue())


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--data", "{tmp}/none.json"], "there is no such file"),
        (["--data", "{tmp}"], "is a directory"),
        (["--data", "{tmp}/text.txt"], "is not JSON"),
        (["--data", "{tmp}/other.json"], "the top level is an object"),
        (["--data-dir", "{tmp}/text.txt"], "is a file"),
        (["--gguf", "{tmp}/none.gguf"], "none.gguf"),
        (["--gguf", "{tmp}/text.txt"], "text.txt"),
        (["--model", "x"], "needs OPENAI_API_KEY"),
        (["--model", "x", "--base-url", "http://127.0.0.1:9/v1"], "does not answer"),
        (["--model", "x", "--gguf", "y"], "without --model"),
        (["--model", "x", "--no-model"], "contradicts"),
        (["--limit", "1"], "with --data"),
        (["--fresh"], "say --yes"),
        (["--max-tokens", "40", "--data-dir", "{tmp}/small"], "max_tokens"),
    ],
)
def test_a_mistake_is_one_line(
    arguments: list[str],
    problem: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "stdin", (tmp_path / "stdin").open("w+"))
    (tmp_path / "text.txt").write_text("no json", encoding="utf-8")
    (tmp_path / "other.json").write_text('{"a": 1}', encoding="utf-8")
    filled = [argument.format(tmp=tmp_path) for argument in arguments]
    if "--data-dir" not in filled:
        filled += ["--data-dir", str(tmp_path / "data")]
    assert main(["demo", *filled]) == 1
    errors = capsys.readouterr().err
    assert errors.startswith("memkit: error: ")
    assert errors.count("\n") == 1
    assert problem in errors
    assert not (tmp_path / "data").exists()
    sys.stdin.close()


def test_a_failing_model_and_an_unknown_server_end_without_a_traceback(tmp_path: Path) -> None:
    with openai_server(lambda _: 401) as (url, _):
        refused = subprocess.run(
            command(tmp_path / "data", "--model", "x", "--base-url", url),
            env=environment(),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    setup = subprocess.run(
        [sys.executable, "-m", "memkit.cli", "setup", "--dsn", "postgresql://x@127.0.0.1:1/x"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    for done in (refused, setup):
        assert done.returncode == 1
        assert done.stderr.startswith("memkit: error: ")
        assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["demo", "--limit", "0"], ["demo", "--what"]])
def test_a_wrong_command_line_is_usage(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_doctor_finds_everything_in_place(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    output = capsys.readouterr().out
    checks = dict(re.findall(r"^(\w+) +ok +(.+)$", output, re.MULTILINE))
    here = {"python", "packages", "local", "agents", "tokens"}
    assert set(checks) == here | {"embeddings", "postgres", "model"}
    assert "384 dimensions" in checks["embeddings"]
    assert re.fullmatch(r"PostgreSQL \d+\.\d+, pgvector [\d.]+", checks["postgres"])


def test_setup_makes_the_tables_of_the_store(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import psycopg

    from memkit import local

    with local.postgres(tmp_path / "data") as dsn:
        for _ in range(2):
            assert main(["setup", "--dsn", dsn]) == 0
        with psycopg.connect(dsn) as connection:
            found = connection.execute(
                "SELECT count(*) FROM pg_tables WHERE schemaname NOT IN "
                "('pg_catalog', 'information_schema')"
            ).fetchone()
    assert found is not None
    assert found[0] > 0
    assert capsys.readouterr().out == "the store is set up\n" * 2
