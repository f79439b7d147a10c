"""`python -m benchmarks recall`: figures known beforehand on a talk written here."""

import json
from pathlib import Path
from typing import Any

import pytest
from langchain_core.embeddings import Embeddings
from langgraph.store.memory import InMemoryStore

from benchmarks.__main__ import main
from benchmarks.fact_peers import Stopwatch
from benchmarks.recall import VARIANTS, load
from benchmarks.recall_systems import (
    BM25,
    IN_MEMORY,
    MEM0,
    MEMKIT,
    PEER,
    Answer,
    Memkit,
    SharedEmbeddings,
    Stored,
    Words,
)
from benchmarks.retrieval import Found
from benchmarks.talks import load_talks
from memkit.demo.conversations import Conversation, Question
from tests.fakes import HashEmbeddings
from tests.haystacks import HAYSTACKS

TALK = {
    1: [
        ("Ute", "Hi Ben! My parrot is called Captain Flint, he can whistle three songs."),
        ("Ben", "Ha, lovely. I collect stamps from Iceland."),
        ("Ute", "Thanks!"),
        ("Ben", "Thanks!"),
    ],
    2: [
        (who, f"Week {n} of the rain, we played cards.")
        for n, who in enumerate(["Ben", "Ute"] * 15)
    ],
    3: [("Ben", "My new hobby is throwing pots on a wheel."), ("Ute", "Pottery, really?")],
}
QUESTIONS: list[dict[str, Any]] = [
    {"question": "What is the parrot called?", "evidence": ["D1:1"], "category": 4},
    {"question": "Which stamps are collected?", "evidence": ["D1:2", "D9:9"], "category": 4},
    {"question": "Which hobby is there with pots on a wheel?", "evidence": ["D3:1"], "category": 1},
    {"question": "Nobody knows?", "evidence": [], "category": 2},
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
    path = tmp_path_factory.mktemp("data") / "talk.json"
    asked = [{"answer": "-", **question} for question in QUESTIONS]
    path.write_text(json.dumps([{"sample_id": "t.1", "conversation": said, "qa": asked}]))
    return path


@pytest.mark.slow
def test_all_systems_by_the_same_measure(
    locomo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    output, picture = tmp_path / "a.json", tmp_path / "a.png"
    arguments = ["recall", "--data", str(locomo), "--json", str(output), "--plot", str(picture)]
    assert main(arguments) == 0, capsys.readouterr().err
    printed = capsys.readouterr()
    report = json.loads(output.read_text())
    assert report["bench"] == "recall"
    systems, settings = report["systems"], report["settings"]
    # Whatever is not installed is named, and is all that is missing.
    assert {*systems, *settings["absent"]} == {MEMKIT, PEER, IN_MEMORY, MEM0, BM25}
    assert settings["absent"].keys() <= {MEM0, BM25}
    assert all(f"without {name}: " in printed.err for name in settings["absent"])
    assert (settings["questions"], settings["questions_left_out"]) == (3, 1)
    assert settings["turns"] == sum(map(len, TALK.values()))
    for name, figures in systems.items():
        assert figures["questions"] == 3
        assert figures["hit@5"] <= figures["hit@10"] <= figures["hit@20"] == 1, name
        assert 0 < figures["tokens@5"] <= figures["tokens@20"]
        assert figures["category_1_hit@10"] == 1
        assert 0 < figures["latency_p50_ms"] <= figures["latency_p95_ms"]
        if name != BM25:
            assert figures["embed_p50_ms"] > 0
            assert figures["with_embed_p50_ms"] > figures["latency_p50_ms"]
    assert systems[MEMKIT]["hit@5"] == 1
    assert settings["better"].keys() == systems.keys() - {MEMKIT}
    assert "hit@10_low" in printed.out
    assert picture.stat().st_size > 10_000


@pytest.mark.slow
def test_variants_of_memkit_over_one_database_and_haystacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, output = tmp_path / "haystacks.json", tmp_path / "a.json"
    data.write_text(json.dumps(HAYSTACKS))
    arguments = ["recall", "--quick", "--data", str(data), "--ablation", "--questions", "5"]
    assert main([*arguments, "--json", str(output)]) == 0, capsys.readouterr().err
    report = json.loads(output.read_text())
    assert list(report["systems"]) == [variant.name for variant in VARIANTS]
    for figures in report["systems"].values():
        assert figures["questions"] == figures["hit@20"] == 1
        assert figures["category_single-session-user_hit@5"] == 1
    assert report["settings"]["questions_left_out"] == 2  # one unanswerable, one without marks
    assert "not figures to quote" in capsys.readouterr().err


# -- the systems -------------------------------------------------------------------------------


def embeddings(watch: Stopwatch | None = None) -> SharedEmbeddings:
    return SharedEmbeddings(HashEmbeddings(64), watch or Stopwatch())


def in_memory(shared: Embeddings) -> InMemoryStore:
    return InMemoryStore(index={"dims": 64, "embed": shared, "fields": ["text"]})


def asked(system: Memkit | Stored | Words, talk: Conversation, text: str) -> list[Found]:
    return system.ask(talk, Question("q", text, "-", ("D1:1",))).found


def test_every_system_stores_the_same_texts_under_the_ids_of_the_turns(locomo: Path) -> None:
    (talk,) = load_talks(locomo)
    shared, watch = embeddings(), Stopwatch()
    ours, theirs = Memkit(in_memory(shared), watch), Stored(in_memory(shared), watch)
    for system in (ours, theirs):
        system.load(talk)
    wanted = Found(("D3:1",), "Ben: My new hobby is throwing pots on a wheel.")
    question = "Ben: My new hobby is throwing pots on a wheel"
    assert asked(ours, talk, question)[0] == asked(theirs, talk, question)[0] == wanted
    assert len(asked(theirs, talk, question)) == 20


def test_words_that_nobody_said_find_nothing(locomo: Path) -> None:
    pytest.importorskip("bm25s")
    (talk,) = load_talks(locomo)
    words = Words()
    words.load(talk)
    assert asked(words, talk, "What of elephants?") == []
    (first, *_) = asked(words, talk, "Who collected a stamp?")
    assert first.message_ids == ("D1:2",)


def test_texts_are_embedded_once_and_questions_each_time() -> None:
    inner = HashEmbeddings()
    watch = Stopwatch()
    shared = SharedEmbeddings(inner, watch)
    first = shared.embed_documents(["a b", "c", "a b"])
    assert shared.embed_query("c") == first[1]
    assert inner.document_calls == [["a b", "c"]]
    assert watch.seconds == 0
    shared.asking = True
    shared.embed_query("c")
    shared.embed_query("c")
    assert inner.document_calls[1:] == [["c"], ["c"]]
    assert watch.seconds > 0


def test_a_peer_that_fails_is_left_out_and_memkit_is_not(locomo: Path) -> None:
    class Broken:
        def load(self, conversation: Conversation) -> None:
            raise OSError("no disk")

        def ask(self, conversation: Conversation, question: Question) -> Answer:
            raise AssertionError

    talks = load_talks(locomo)
    absent: dict[str, str] = {}
    assert load({MEM0: Broken()}, talks, absent) == {}
    assert absent == {MEM0: "OSError: no disk"}
    with pytest.raises(OSError, match="no disk"):
        load({MEMKIT: Broken()}, talks, absent)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["recall", "--max-tokens", "100"], "leave out --max-tokens"),
        (["recall", "--model", "x"], "leave out --model"),
        (["recall", "--prices", "1", "2"], "leave out --judge and --prices"),
        (["tokens", "--questions", "3"], "leave out --questions"),
        (["qa", "--ablation"], "leave out --ablation"),
        (["recall", "--data", "none.json"], "there is no such file"),
    ],
)
def test_what_cannot_be_used_is_one_line(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line


def test_data_in_which_no_question_has_evidence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = {
        "speaker_a": "Ute",
        "speaker_b": "Ben",
        "session_1_date_time": "1:56 pm on 8 May, 2023",
        "session_1": [{"speaker": "Ute", "dia_id": "D1:1", "text": "Hello."}],
    }
    (tmp_path / "a.json").write_text(json.dumps([{"conversation": said, "qa": [QUESTIONS[3]]}]))
    assert main(["recall", "--data", str(tmp_path / "a.json")]) == 1
    assert "no question names its evidence" in capsys.readouterr().err
