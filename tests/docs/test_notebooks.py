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
    for name in ("no_proxy", "NO_PROXY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    return KERNEL


def read(name: str) -> Any:
    return nbformat.read(NOTEBOOKS / name, as_version=4)  # type: ignore[no-untyped-call]


def executed(name: str, kernel: str, directory: Path, *, then: str) -> Any:
    """Run a notebook and one more cell, and return what that cell's last value is as JSON."""
    notebook = read(name)
    source = f"import json\nprint(json.dumps({then}))"
    last: Any = nbformat.v4.new_code_cell(source)  # type: ignore[no-untyped-call]
    notebook.cells.append(last)
    client = nbclient.NotebookClient(
        notebook,
        timeout=TIMEOUT_S,
        kernel_name=kernel,
        resources={"metadata": {"path": str(directory)}},
    )
    asyncio.run(client.async_execute())
    return json.loads("".join(o["text"] for o in last["outputs"] if o["name"] == "stdout"))


def test_every_notebook_is_committed_without_outputs_and_has_a_test() -> None:
    names = [path.name for path in sorted(NOTEBOOKS.glob("*.ipynb"))]
    assert names == ["01_quickstart.ipynb"]
    for name in names:
        notebook = read(name)
        nbformat.validate(notebook)
        for cell in notebook.cells:
            assert not cell.get("outputs")
            assert cell.get("execution_count") is None


def test_the_quickstart_remembers_across_threads(kernel: str, tmp_path: Path) -> None:
    found = executed(
        "01_quickstart.ipynb",
        kernel,
        tmp_path,
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
            "left": __import__("pathlib").Path(home).exists(),
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
    assert not found["left"]
