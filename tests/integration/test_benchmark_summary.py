"""`python -m benchmarks summary`: a quick run, a model over the wire, and each of its judges."""

import copy
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from benchmarks.__main__ import main
from benchmarks.conversations import chat
from benchmarks.peers import LANGMEM, MIDDLEWARE, InstantModel, Peer, Session
from benchmarks.report import Options
from benchmarks.summary import (
    EMBEDDINGS,
    RECALL,
    Kept,
    Memkit,
    Remembered,
    content_words,
    first_sessions,
    folded,
    measure_retention,
    overhead,
    share_found,
)
from benchmarks.tokens import FULL, LAST, MEMKIT
from memkit import count_tokens
from memkit.demo.conversations import Conversation, Line, Question, load_story
from memkit.demo.conversations import Session as Sitting
from tests.benchmark_runs import quick_run
from tests.fakes import HashEmbeddings
from tests.openai_server import completion, openai_server

COSTS = ("turn_ms_100", "turn_ms_1000", "flatness", "overhead_s", "model_calls", "cached_share")
RETAINED = ("questions_folded", "retention", "retention_soft", "tokens_per_question_mean")


@pytest.mark.slow
def test_a_quick_run(tmp_path: Path) -> None:
    report, done = quick_run("summary", tmp_path)
    assert report["settings"]["retention"]["model"] is None
    systems = report["systems"]
    ours = [MEMKIT, RECALL, EMBEDDINGS, LAST]
    assert [name for name in systems if name not in (LANGMEM, MIDDLEWARE)] == [*ours, FULL]
    for name in (LANGMEM, MIDDLEWARE):
        assert (name in systems) != (f"--quick: without {name}" in done.stderr)
    for metric in (*COSTS, *RETAINED):
        assert metric in systems[MEMKIT]
        assert metric in done.stdout
    assert len({figures["questions_folded"] for figures in systems.values()}) == 1
    assert systems[MEMKIT]["questions_folded"] >= 5
    assert systems[MEMKIT]["tokens_per_turn_mean"] <= 4_000
    assert 1 < systems[MEMKIT]["model_calls"] < 50
    for name in ours[:3]:
        assert systems[name]["tokens_per_question_mean"] <= 2_000
        assert systems[LAST]["retention"] <= systems[name]["retention"]
    assert systems[MEMKIT]["retention"] <= systems[RECALL]["retention"]
    assert systems[RECALL]["retention"] > systems[LAST]["retention"]
    assert systems[RECALL]["retention"] <= systems[FULL]["retention"]


@pytest.mark.slow
def test_a_model_writes_the_summaries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    facts = " ".join(question.answer for question in load_story().questions)
    output = tmp_path / "a.json"
    with openai_server(lambda _: completion(f"They said: {facts}.")) as (url, requests):
        arguments = ["summary", "--quick", "--base-url", url, "--model", "tiny"]
        assert main([*arguments, "--json", str(output)]) == 0, capsys.readouterr().err
    assert len(requests) > 1
    report = json.loads(output.read_text())
    assert report["settings"]["retention"]["model"] == "tiny"
    assert EMBEDDINGS not in report["systems"]
    assert report["systems"][MEMKIT]["retention"] == 1
    assert report["systems"][LAST]["retention"] < 1


def test_a_full_run_says_which_peer_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "langmem", None)
    assert main(["summary"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "langmem" in line
    assert "pip install 'memkit[bench]'" in line


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["summary", "--max-tokens", "100"], "a budget of 500 tokens or more"),
        (["summary", "--data", "none.json"], "there is no such file"),
        (["trim", "--model", "gpt-4o"], "leave out --model"),
        (["tokens", "--base-url", "http://localhost"], "leave out --model and --base-url"),
    ],
)
def test_what_cannot_be_used_is_one_line(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line


# -- cost --------------------------------------------------------------------------------------


class EveryTenth:
    """Asks the model on every tenth turn, and sends the whole history."""

    def __init__(self, max_tokens: int, model: BaseChatModel | None = None) -> None:
        assert model is not None
        self.model, self.turns = model, 0

    def __call__(self, history: list[BaseMessage]) -> Sequence[BaseMessage]:
        self.turns += 1
        if self.turns % 10 == 0:
            self.model.invoke("Go on.")
        return history


def test_costs_of_a_system_known_beforehand() -> None:
    systems: Mapping[str, Peer] = {"tenth": EveryTenth}
    figures, times = overhead(systems, (40, 100))
    assert len(times["tenth"]) == 50
    found = figures["tenth"]
    assert found["model_calls"] == 5
    prompts = [chat(100, 0)[:end] for end in range(2, 101, 2)]
    totals = [count_tokens(prompt) for prompt in prompts]
    assert found["tokens_per_turn_mean"] == pytest.approx(sum(totals) / 50)
    reply = 3  # tokens that prime the reply and belong to no message
    assert found["cached_share"] == pytest.approx((sum(totals[:-1]) - 49 * reply) / sum(totals))
    assert found["flatness"] == found["turn_ms_100"] / found["turn_ms_40"]
    assert found["overhead_s"] > 0


def test_memkit_stays_within_its_budget_and_asks_rarely() -> None:
    model = InstantModel()
    session = Memkit(1_000, model)
    history = chat(201)
    folds = 0
    for end in range(2, 201, 2):
        before = model.calls
        assert count_tokens(session(history[:end])) <= 1_000
        folds += model.calls - before
    assert 5 < folds < 50
    assert session.state["summary"]["text"] == model.responses[0]


def test_a_copy_of_a_session_goes_on_by_itself() -> None:
    history = chat(100)
    session = Memkit(1_000, InstantModel())
    for end in range(2, 81, 2):
        session(history[:end])
    before = copy.deepcopy(session.state)
    copy.copy(session)([*history, HumanMessage("word " * 300, id="q")])
    assert session.state == before


# -- retention ---------------------------------------------------------------------------------


def test_words_are_numbers_and_singulars() -> None:
    text = "Pottery classes, the Buddies' 2 dogs and Ute's bus on 7 May 2023: $1,500!"
    assert content_words(text) == {
        *("pottery", "classe", "buddy", "2", "dog", "ute", "bus", "7", "may", "2023"),
        *("1", "500"),
    }
    assert content_words("Of the") == frozenset()


def test_the_share_of_an_answer_that_stands_in_a_view() -> None:
    view: list[BaseMessage] = [HumanMessage("My dogs are 2."), AIMessage("And the grey CAT?")]
    assert share_found("2 dogs, a cat", view) == 1
    assert share_found("a dog and 12 cats", view) == pytest.approx(2 / 3)
    assert share_found("a parrot", view) == share_found("cat", []) == 0


def test_a_question_is_judged_where_nobody_shows_its_evidence() -> None:
    asked = [Question(id=str(n), text="?", answer="-", evidence=(f"e{n}", "x")) for n in range(3)]
    first: list[list[BaseMessage]] = [[HumanMessage("a", id="e0")], [], []]
    second: list[list[BaseMessage]] = [[], [HumanMessage("a", id="e0")], [HumanMessage("", id="x")]]
    assert folded(asked, [first, second]) == [1]
    assert folded(asked, [first]) == [1, 2]


def test_metrics_of_what_was_kept() -> None:
    figures = Kept([1.0, 0.5, 0.0, 1.0], [10, 20, 30, 40]).metrics()
    assert figures == {
        "questions_folded": 4,
        "retention": 0.5,
        "retention_soft": 0.625,
        "tokens_per_question_mean": 25,
    }
    assert Kept().metrics() == {"questions_folded": 0}


def dialogue() -> Conversation:
    said = ["I keep a parrot called Flint in Bremen."]
    said += [f"Week {n} of the rain, we stayed in and played cards until late." for n in range(80)]
    lines = tuple(
        Line(str(n), "Ute", False, text, f"2026-05-01T09:{n // 60:02}:{n % 60:02}+00:00")
        for n, text in enumerate(said)
    )
    asked = [("What is the parrot of Ute called?", "Flint", "0"), ("Which week?", "79", "80")]
    return Conversation(
        id="t",
        title="Ute and Ben",
        two_people=True,
        system=None,
        sessions=(Sitting("s1", lines[0].said_at, lines[:30]), Sitting("s2", "", lines[30:])),
        questions=tuple(
            Question(id=f"q{n}", text=text, answer=answer, evidence=(line,))
            for n, (text, answer, line) in enumerate(asked)
        ),
        asked_at="2026-05-02T09:00:00+00:00",
    )


def latest_only(max_tokens: int, model: BaseChatModel | None = None) -> Session:
    return lambda history: history[-1:]


def everything(max_tokens: int, model: BaseChatModel | None = None) -> Session:
    return list


def test_retention_with_figures_known_beforehand() -> None:
    options = Options(quick=True, max_tokens=500)
    kept = measure_retention([dialogue()], {"latest": latest_only}, None, options)
    # The second question is about what most windows still show.
    assert {len(of_one.found) for of_one in kept.values()} == {1}
    assert kept["latest"].found == kept[LAST].found == [0]
    assert kept[RECALL].found == kept[FULL].found == [1]
    kept = measure_retention([dialogue()], {"everything": everything}, None, options)
    assert {len(of_one.found) for of_one in kept.values()} == {0}


def test_a_quick_run_takes_whole_sessions_and_their_questions() -> None:
    story = load_story()
    part = first_sessions(story)
    assert part.sessions == story.sessions[: len(part.sessions)]
    said = {line.id for session in part.sessions for line in session.lines}
    assert part.questions
    assert all(said.issuperset(question.evidence) for question in part.questions)


def test_each_text_is_embedded_once() -> None:
    asked: list[str] = []

    class Counting(HashEmbeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            asked.extend(texts)
            return super().embed_documents(texts)

    embeddings = Remembered(Counting())
    first = embeddings.embed_documents(["a", "b", "a"])
    assert first == [*embeddings.embed_documents(["a", "b"]), first[0]]
    assert asked == ["a", "b"]
