"""The README's Python blocks run, in their order, and print what it says they print."""

import contextlib
import io
import re
from pathlib import Path

import pytest

from memkit.cli import main

ROOT = Path(__file__).parents[2]
PAGES = {name: (ROOT / name).read_text("utf-8") for name in ("README.md", "HOWTO.md")}
BLOCK = re.compile(
    r"(?P<skip><!-- not run[^>]*-->\n)?```(?P<kind>\w+)\n(?P<body>.*?)```", re.DOTALL
)

DAY = r"\d{4}-\d\d-\d\d"


@pytest.mark.parametrize("name", PAGES)
def test_the_python_blocks_run_and_print_what_they_say(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = PAGES[name]
    monkeypatch.setenv("MEMKIT_DATA_DIR", str(tmp_path))
    namespace: dict[str, object] = {}
    printed = io.StringIO()
    ran = 0
    for block in BLOCK.finditer(page):
        if block["kind"] == "python" and not block["skip"]:
            line = page[: block.start("body")].count("\n")
            code = compile("\n" * line + block["body"], name, "exec")
            with contextlib.redirect_stdout(printed):
                exec(code, namespace)  # noqa: S102 - the README is ours
            ran += 1
        elif block["kind"] == "text":
            assert printed.getvalue() == block["body"]
            printed = io.StringIO()
    assert ran >= 2


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_commands_links_and_pictures_exist(page: str) -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in re.findall(r"^make (\w+)", page, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", page):
        assert (ROOT / link).exists(), link
    for name in re.findall(r"python -m benchmarks (\w+)", page):
        assert (ROOT / "benchmarks" / f"{name}.py").exists(), name


def test_the_talk_is_what_chat_shows(
    dsn: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (block,) = [b for b in BLOCK.finditer(PAGES["README.md"]) if b["kind"] == "talk"]
    lines = block["body"].splitlines(keepends=True)
    typed = "".join(line[2:] for line in lines if line.startswith("> "))
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    assert main(["chat", "--no-model", "--dsn", dsn]) == 0
    said = "".join(line for line in lines if not line.startswith("> "))
    told = [t for t in capsys.readouterr().out.splitlines() if "thread chat-" not in t]
    assert re.sub(DAY, "DAY", "\n".join(told)) == re.sub(DAY, "DAY", said.strip())
