"""`python -m benchmarks` as a person runs it: figures that must hold, pictures, bad input."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from benchmarks.__main__ import main
from benchmarks.report import Report, table
from benchmarks.tokens import Measured, shown_ids, turns
from memkit import count_tokens
from memkit.demo.conversations import load_story
from memkit.view import RECALLED_ID

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
MEMKIT, LAST, FULL = "memkit", "last N tokens", "full history"
PNG = b"\x89PNG\r\n\x1a\n"

TALK = {
    1: [
        ("Ute", "Hi Ben! My parrot is called Captain Flint, he can whistle three songs."),
        ("Ben", "Ha, lovely. I collect stamps from Iceland, my album has four hundred of them."),
        ("Ute", "Four hundred! Where do you even find that many?"),
        ("Ben", "Flea markets mostly, and a shop in Bremen that closes in spring."),
    ],
    2: [
        (who, f"Week {n} of the rain, we stayed in, cooked soup and played cards until late.")
        for n, who in enumerate(["Ben", "Ute"] * 8 + ["Ben"], 1)
    ],
    3: [
        ("Ute", "Thanks again for the pump, the cellar is dry and smells almost normal."),
        ("Ben", "Glad to hear it. My new hobby is throwing pots on a wheel."),
        ("Ute", "Pottery, really? Show me the first bowl when it is done!"),
    ],
}
QUESTIONS = [
    ("What is the name of the parrot of Ute?", "D1:1"),
    ("Which stamps does Ben collect?", "D1:2"),
    ("Which new hobby with pots and a wheel does Ben have?", "D3:2"),
]
BUDGET = 400  # holds session 3 and not session 1


@pytest.fixture(scope="module")
def locomo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    conversation: dict[str, Any] = {"speaker_a": "Ute", "speaker_b": "Ben"}
    for number, lines in TALK.items():
        conversation[f"session_{number}_date_time"] = f"1:56 pm on {number} May, 2023"
        conversation[f"session_{number}"] = [
            {"speaker": who, "dia_id": f"D{number}:{n}", "text": text}
            for n, (who, text) in enumerate(lines, 1)
        ]
    asked = [
        {"question": question, "answer": "-", "evidence": [line], "category": 4}
        for question, line in QUESTIONS
    ]
    path = tmp_path_factory.mktemp("data") / "talk.json"
    path.write_text(json.dumps([{"sample_id": "t", "conversation": conversation, "qa": asked}]))
    return path


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *map(str, arguments)],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if not k.startswith("OPENAI_")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_story_in_a_quick_run(tmp_path: Path) -> None:
    done = run("tokens", "--quick", "--json", tmp_path / "a.json", "--plot", tmp_path / "a.png")
    assert done.returncode == 0, done.stderr
    assert "InMemoryStore" in done.stderr
    assert "a check, not a figure to quote" in done.stderr
    assert (tmp_path / "a.png").read_bytes().startswith(PNG)
    report = json.loads((tmp_path / "a.json").read_text())
    assert {"bench", "commit", "machine", "versions", "seed", "systems"} <= report.keys()
    assert report["bench"] == "tokens"
    assert report["settings"]["store"] == "InMemoryStore"
    assert report["settings"]["exact_counts"] is True
    systems = report["systems"]
    assert list(systems) == [MEMKIT, LAST, FULL]
    for figures in systems.values():
        assert all(isinstance(value, int | float) for value in figures.values())
        assert figures["turns"] == systems[FULL]["turns"] > 50
        assert figures["tokens_per_turn_mean"] * figures["turns"] == pytest.approx(
            figures["tokens_total"]
        )
    for name in (MEMKIT, LAST):
        assert systems[name]["tokens_per_turn_max"] <= report["settings"]["max_tokens"]
    assert systems[MEMKIT]["tokens_total"] < systems[LAST]["tokens_total"]
    assert systems[LAST]["tokens_total"] < systems[FULL]["tokens_total"] / 2
    assert systems[LAST]["evidence_in_view"] < systems[MEMKIT]["evidence_in_view"]
    assert systems[FULL]["evidence_in_view"] == systems[FULL]["evidence_verbatim"] == 1
    assert systems[MEMKIT]["evidence_recalled"] >= 0.9
    for metric, value in systems[FULL].items():
        assert metric in done.stdout
        assert isinstance(value, float) or f"{value:,}" in done.stdout


def test_a_locomo_file_on_postgres_with_figures_known_beforehand(
    locomo: Path, tmp_path: Path
) -> None:
    output = tmp_path / "figures.json"
    done = run("tokens", "--data", locomo, "--json", output, "--max-tokens", str(BUDGET))
    assert done.returncode == 0, done.stderr
    report = json.loads(output.read_text())
    assert report["settings"]["store"] == "SemanticStore"
    assert report["settings"]["data"] == "talk.json"
    systems = report["systems"]

    said = [HumanMessage(text, name=who) for lines in TALK.values() for who, text in lines]
    sent_in = [0, 2, *range(4, 21, 2), 21, 23]  # every second line of a session, and its last
    sizes = [count_tokens(said[: i + 1]) for i in sent_in]
    assert systems[FULL]["turns"] == len(sizes)
    assert systems[FULL]["tokens_total"] == sum(sizes)
    assert systems[FULL]["tokens_per_turn_max"] == sizes[-1]
    assert sizes[-1] > BUDGET

    for name in (MEMKIT, LAST):
        assert systems[name]["tokens_per_turn_max"] <= BUDGET
    assert systems[FULL]["evidence_in_view"] == 1
    assert systems[LAST]["evidence_in_view"] == pytest.approx(1 / 3)
    assert systems[LAST]["evidence_verbatim"] == pytest.approx(1 / 3)
    assert "evidence_recalled" not in systems[LAST]
    assert systems[MEMKIT]["evidence_recalled"] == 1
    assert systems[MEMKIT]["evidence_in_view"] == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["tokens", "--data", "{here}/none.json"], "there is no such file"),
        (["tokens", "--data", "{here}"], "is a directory"),
        (["tokens", "--data", "{here}/text.json"], "is not JSON"),
        (["tokens", "--data", "{here}/other.json"], "expected a LoCoMo file"),
        (["tokens", "--json", "{here}/none/a.json"], "there is no directory"),
        (["tokens", "--plot", "{here}"], "is a directory"),
        (["tokens", "--plot", "{here}/a.pdf"], ".png"),
    ],
)
def test_a_bad_path_is_one_line(
    arguments: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tmp_path.joinpath("text.json").write_text("once upon a time")
    tmp_path.joinpath("other.json").write_text('{"a": 1}')
    assert main([argument.format(here=tmp_path) for argument in arguments]) == 1
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert line.startswith("benchmarks: error: ")
    assert told in line
    assert not printed.out


def test_a_bad_path_from_the_shell(tmp_path: Path) -> None:
    done = run("tokens", "--data", tmp_path / "none.json")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stderr


def test_a_budget_that_holds_no_message_is_told(
    locomo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["tokens", "--quick", "--data", str(locomo), "--max-tokens", "10"]
    assert main(arguments) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("benchmarks: error: ")
    assert "Raise max_tokens" in last


def test_a_wrong_command_line_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["nothing"], ["tokens", "--max-tokens", "0"]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
    assert "must be at least 1" in capsys.readouterr().err


def test_a_plot_without_matplotlib_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["tokens", "--plot", str(tmp_path / "a.png")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install 'memkit[bench]'" in line


def test_turns_are_pairs_and_no_line_is_lost() -> None:
    story = load_story()
    for session in story.sessions:
        pairs = list(turns(story, session))
        assert [line for pair in pairs for line in pair if line] == list(session.lines)
        assert all(reply is None or reply.by_assistant for _, reply in pairs)


def test_only_what_the_prompt_shows_counts_as_in_view() -> None:
    note = HumanMessage("Notes:\n- (2026-01-01) I live in Ulm.\n- (2026-01-02, x) Ben: Hi.")
    recalled = [
        {"text": "I live in  Ulm.", "message_ids": ["a"]},
        {"text": "Ben: Hi.", "message_ids": ["b"]},
        {"text": "I live", "message_ids": ["part of a line"]},
        {"text": "My cat is grey.", "message_ids": ["not shown"]},
    ]
    view = [note.model_copy(update={"id": RECALLED_ID}), HumanMessage("Where?", id="q")]
    found = shown_ids({"llm_input_messages": view, "recalled": recalled})
    assert found - {RECALLED_ID} == {"a", "b", "q"}


def test_metrics_and_their_table() -> None:
    measured = Measured([10, 20, 60], [5, 7], [True, False], [False, False], [True, True])
    figures = measured.metrics()
    assert figures["tokens_per_turn_mean"] == 30
    assert figures["tokens_per_turn_p95"] == pytest.approx(56)
    assert (figures["tokens_per_turn_max"], figures["tokens_total"]) == (60, 90)
    assert (figures["evidence_in_view"], figures["evidence_verbatim"]) == (0.5, 0)
    assert figures["evidence_recalled"] == 1
    report = Report("x", {"memkit": {"tokens": 12345, "share": 0.25}, "peer": {"tokens": 7}}, 0)
    assert table(report).splitlines() == [
        "x       memkit  peer",
        "------  ------  ----",
        "tokens  12,345     7",
        "share     0.25",
    ]
