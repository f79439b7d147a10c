"""The notebooks, run from top to bottom as a reader would, without a network."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
README = NOTEBOOKS.with_name("README.md")
NAMES = (
    "01_quickstart",
    "02_trimming_and_summaries",
    "03_facts_and_staleness",
    "04_semantic_recall",
    "05_checkpoint_growth",
    "06_your_own_postgres",
    "07_customer_support",
)
TIMEOUT_S = 120  # of one cell
KERNEL = "memkit-tests"
NO_NETWORK = "http://127.0.0.1:9"  # the discard port: nobody answers

pytestmark = pytest.mark.slow


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A kernel of this very interpreter, whatever kernels the machine has."""
    spec = tmp_path / "jupyter" / "kernels" / KERNEL
    spec.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec.joinpath("kernel.json").write_text(
        json.dumps({"argv": command, "display_name": KERNEL, "language": "python"})
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, NO_NETWORK)
    mine = ("MPLBACKEND", "MEMKIT_DSN", "MEMKIT_LOCOMO")
    for name in ("no_proxy", "NO_PROXY", "OPENAI_API_KEY", *mine):
        monkeypatch.delenv(name, raising=False)
    return KERNEL


def read(name: str) -> Any:
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)  # type: ignore[no-untyped-call]


def executed(name: str, kernel: str, directory: Path, *, figures: int = 0, then: str) -> Any:
    """Run a notebook and one more cell, and return what that cell's last value is as JSON.

    It has to draw that many figures, nothing may be warned of, and no file may be left.
    """
    notebook = read(name)
    left = "'home' in globals() and pathlib.Path(home).exists()"
    source = f"import json, pathlib\nprint(json.dumps([{then}, {left}]))"
    last: Any = nbformat.v4.new_code_cell(source)  # type: ignore[no-untyped-call]
    notebook.cells.append(last)
    client = nbclient.NotebookClient(
        notebook,
        timeout=TIMEOUT_S,
        kernel_name=kernel,
        resources={"metadata": {"path": str(directory)}},
    )
    asyncio.run(client.async_execute())
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert not [o["text"] for o in outputs if o.get("name") == "stderr"]
    assert sum("image/png" in o.get("data", {}) for o in outputs) == figures
    found, left = json.loads("".join(o["text"] for o in last["outputs"] if o["name"] == "stdout"))
    assert not left
    assert not list(directory.iterdir())
    return found


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """An empty directory to run in."""
    directory = tmp_path / "run"
    directory.mkdir()
    return directory


def test_every_notebook_has_a_test() -> None:
    assert tuple(path.stem for path in sorted(NOTEBOOKS.glob("*"))) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_committed_without_outputs(name: str) -> None:
    notebook = read(name)
    nbformat.validate(notebook)
    assert notebook.metadata == read(NAMES[0]).metadata
    assert [cell.id for cell in notebook.cells] == [
        f"cell-{n:02}" for n in range(len(notebook.cells))
    ]
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_says_what_it_needs_and_the_readme_leads_to_it(name: str) -> None:
    notebook = read(name)
    top = notebook.cells[0].source
    assert top.startswith("# ")
    assert 'pip install "memkit[local]"' in top
    assert " seconds." in top
    imports = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert ("matplotlib" in imports) == ("matplotlib" in top)
    assert ("langgraph.checkpoint.sqlite" in imports) == ("langgraph-checkpoint-sqlite" in top)
    assert f"(notebooks/{name}.ipynb)" in README.read_text(encoding="utf-8")


def test_the_quickstart_remembers_across_threads(kernel: str, directory: Path) -> None:
    found = executed(
        "01_quickstart",
        kernel,
        directory,
        then="""{
            "facts": {f["text"]: f for f in facts},
            "summary": summary,
            "january": [len(january["messages"]), len(january["llm_input_messages"])],
            "july": july["recalled"],
            "september": september["recalled"],
            "october": october["recalled"],
            "prompt": [m.content for m in september["llm_input_messages"]],
            "tokens": tokens,
            "max_tokens": budget.max_tokens,
        }""",
    )

    def recalled(month: str, words: str) -> dict[str, Any]:
        (item,) = [item for item in found[month] if words in item["text"]]
        return dict(item)

    old, new = (
        next(fact for text, fact in found["facts"].items() if street in text)
        for street in ("14 Linden Street", "8 Harbour Lane")
    )
    assert (old["status"], old["last_updated"][:10]) == ("superseded", "2026-01-14")
    assert (new["status"], new["last_updated"][:10]) == ("current", "2026-06-15")
    assert old["valid_to"] is not None

    assert "Linden Street" in found["summary"]["text"]
    whole, shown = found["january"]
    assert whole == 18
    assert shown < whole

    assert recalled("july", "Harbour Lane")["freshness"] == "fresh"
    assert recalled("september", "Harbour Lane")["freshness"] == "stale"
    assert recalled("october", "Harbour Lane")["freshness"] == "fresh"
    assert not any("Linden" in item["text"] for item in found["september"])
    assert any(
        "2026-06-15, may be outdated: confirm before relying on it) I moved to 8 Harbour Lane" in m
        for m in found["prompt"]
    )

    full, sent = zip(*found["tokens"], strict=True)
    assert list(full) == sorted(set(full))
    assert full[-1] > found["max_tokens"] > max(sent)


def test_trimming_holds_a_budget_and_a_prompt_cache(kernel: str, directory: Path) -> None:
    found = executed(
        "02_trimming_and_summaries",
        kernel,
        directory,
        figures=3,
        then="""{
            "full": full,
            "sent": sent,
            "folds": folds,
            "summary": summary["text"],
            "kept": len(state["messages"]),
            "bars": [int(sum(sizes(view))) for view in views],
            "shares": [shares[1], shares[0.6]],
        }""",
    )
    full, sent = found["full"], found["sent"]
    assert full == sorted(set(full))
    assert max(sent) <= 800 < full[-1] / 4
    assert found["bars"] == sent
    folds = {turn - 1 for turn in found["folds"]}
    assert len(folds) >= 5
    # In between the view only grows; at a fold it is cut to the low water.
    shrinks = {turn for turn in range(1, len(sent)) if sent[turn] < sent[turn - 1]}
    assert shrinks == folds
    assert all(sent[turn] <= 0.6 * 800 for turn in folds)
    assert "Harbour Lane" in found["summary"]
    assert found["kept"] == 1 + 2 * len(full)
    each_turn, rarely = found["shares"]
    assert each_turn < 0.3
    assert rarely > 0.75


def test_facts_fade_and_are_asked_for(kernel: str, directory: Path) -> None:
    found = executed(
        "03_facts_and_staleness",
        kernel,
        directory,
        figures=3,
        then="""{
            "facts": {f.text: [f.status, str(f.last_confirmed.date())] for f in facts},
            "april": sorted(f.kind for f in book.all(as_of="2026-04-01")),
            "faded": [policy.freshness(f, today + timedelta(weeks=60)) for f in facts],
            "asked": sorted(f["text"] for f in question["facts"]),
            "recalled": {item["text"]: item["freshness"] for item in done["recalled"]},
            "pixel": [f.status for f in book.history(pixel.key)],
            "stale": [before["stale"], after["stale"]],
        }""",
    )
    job, cat = "I now work as a midwife.", "My cat Pixel is three years old."
    course = "I am learning Portuguese for the summer."
    assert found["facts"] == {
        "I live at 14 Linden Street in Leipzig.": ["superseded", "2026-01-08"],
        "I'm allergic to nuts.": ["retracted", "2026-01-08"],
        "I prefer e-mail to phone calls.": ["current", "2026-05-11"],
        "I work as a nurse at the university hospital.": ["superseded", "2026-02-03"],
        cat: ["current", "2026-02-03"],
        course: ["current", "2026-03-12"],
        "I now live at 3 Harbour Road in Kiel.": ["current", "2026-10-01"],
        job: ["current", "2026-07-15"],
    }
    # Not the course: taken back in the answer, it never was true.
    assert found["april"] == ["address", "allergy", "family", "job", "preference"]
    assert set(found["faded"]) == {"expired"}
    assert found["asked"] == [course, job, cat]
    assert set(found["recalled"].values()) == {"fresh"}
    assert job in found["recalled"]
    assert not {course, cat} & set(found["recalled"])
    assert found["pixel"] == ["superseded", "current"]
    assert found["stale"] == [3, 0]


def test_recall_along_the_thread_finds_more(kernel: str, directory: Path) -> None:
    found = executed(
        "04_semantic_recall",
        kernel,
        directory,
        figures=3,
        then="""{
            "rates": rates,
            "places": places.tolist(),
            "nearest": {name: [ids[n] for n in some] for name, some in nearest.items()},
        }""",
    )
    rates = found["rates"]
    assert list(rates) == ["vector", "text", "hybrid", "MemoryRecall"]
    at_five = {name: shares[2] for name, shares in rates.items()}
    assert at_five["MemoryRecall"] > max(at_five["vector"], at_five["hybrid"]) + 0.2
    assert at_five["MemoryRecall"] > 0.85
    for name, shares in rates.items():
        assert shares == sorted(shares)
        column = [row[list(rates).index(name)] for row in found["places"]]
        assert shares[-1] == pytest.approx(sum(map(bool, column)) / len(column))
    of_the_dog = [
        sum(i.startswith("2026-05-03") for i in some) for some in found["nearest"].values()
    ]
    alone, with_neighbours = of_the_dog
    assert with_neighbours > alone


def test_recall_takes_a_locomo_file(
    kernel: str, directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = {
        "conversation": {
            "speaker_a": "Ina",
            "speaker_b": "Theo",
            "session_1_date_time": "1:56 pm on 8 May, 2023",
            "session_1": [
                {"speaker": "Ina", "dia_id": "D1:1", "text": "I bought a red bicycle."},
                {"speaker": "Theo", "dia_id": "D1:2", "text": "I bake bread on Sundays."},
            ],
        },
        "qa": [
            {"question": "What did Ina buy?", "answer": "", "evidence": ["D1:1"], "category": 4}
        ],
    }
    path = tmp_path / "locomo.json"
    path.write_text(json.dumps([talk]))
    monkeypatch.setenv("MEMKIT_LOCOMO", str(path))
    found = executed(
        "04_semantic_recall",
        kernel,
        directory,
        figures=3,
        then='{"rates": rates, "title": axes.get_title()}',
    )
    assert found["title"] == "Answers found in the talks of Ina and Theo, LoCoMo: 1 questions"
    assert found["rates"]["MemoryRecall"][1] == 1


def test_checkpoints_grow_with_the_square_unless_they_are_pruned(
    kernel: str, directory: Path
) -> None:
    found = executed(
        "05_checkpoint_growth",
        kernel,
        directory,
        figures=2,
        then="""{
            "exponents": list(exponents.values()),
            "last": [found[-1] for found in sizes.values()],
            "rows": [report.rows, planned.rows, pruned.rows],
            "messages": [len(s.values["messages"]) for s in (before, after)],
            "turns": turns,
            "forecast": forecast.bytes["sync"],
        }""",
    )
    plain, kept, delta = found["exponents"]
    assert 1.9 < plain < 2.05
    assert 0.9 < kept < 1.1
    assert 0.9 < delta < 1.5
    assert found["last"][0] > 30 * max(found["last"][1:])
    rows, planned, pruned = found["rows"]
    assert planned == pruned
    assert rows - pruned < 12
    assert found["messages"] == [2 * found["turns"]] * 2
    forecast = found["forecast"]
    assert forecast["both"] < forecast["pruned"] < forecast["trimmed"] < forecast["plain"]


def test_tenants_are_apart_and_a_person_can_be_erased(kernel: str, directory: Path) -> None:
    found = executed(
        "06_your_own_postgres",
        kernel,
        directory,
        figures=1,
        then="""{
            "shops": sorted({item.namespace[0] for item in found}),
            "guest": [unnamed, named],
            "of_customer": next(row[1] for row in tenants if row[0] == "nordlicht.customer-07"),
            "filtered": [item.value for item in filtered],
            "ttl": [at_once is not None, later is not None, swept],
            "tenants": len(tenants),
            "kB": per_note,
            "exported": [len(t["messages"]) for t in exported["threads"]],
            "planned": [planned.items, planned.dry_run],
            "erased": [erased.items, erased.is_complete],
        }""",
    )
    assert found["shops"] == ["nordlicht"]
    unnamed, named = found["guest"]
    assert unnamed == 0
    assert named == found["of_customer"] > 0
    assert len(found["filtered"]) == 4
    assert all(value["open"] and value["year"] >= 2026 for value in found["filtered"])
    assert found["ttl"] == [True, False, 1]
    assert found["tenants"] == 120
    assert 0.9 < found["kB"] < 2  # a half-precision vector of 384 dimensions takes 0.8
    assert found["exported"] == [2]
    assert found["planned"] == [6, True]
    assert found["erased"] == [6, True]


def test_a_second_ticket_knows_the_first_and_a_refund_is_made_once(
    kernel: str, directory: Path
) -> None:
    found = executed(
        "07_customer_support",
        kernel,
        directory,
        figures=2,
        then="""{
            "plain": plain_answers["ticket-2"],
            "answers": answers,
            "sizes": [max(plain_sizes), max(sizes), budget.max_tokens],
            "steps": steps,
            "once": [calls, len(refunds), len(facts)],
            "addresses": [f.status for f in last_facts if f.attribute == "home_address"],
            "facts": len(last_facts),
            "told": [m.content for m in done["messages"]],
        }""",
    )
    assert "What is your address?" in found["plain"]
    assert "14 Linden Street" in found["answers"]["ticket-2"]
    plain, sent, budget = found["sizes"]
    assert sent <= budget < plain
    steps = found["steps"]
    assert steps.index("memory_trim") + 1 == steps.index("respond")
    assert steps.index("respond") + 1 == steps.index("memory_remember")
    calls, refunds, facts = found["once"]
    assert (calls, refunds) == (1, 1)
    assert facts == found["facts"]
    assert found["addresses"] == ["current", "superseded"]
    assert found["told"][-1] == "48.50 EUR are on their way."
    assert len(found["told"]) == 4
