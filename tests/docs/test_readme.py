"""The README's Python blocks run, in their order, and print what it says they print."""

import contextlib
import io
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
BLOCK = re.compile(
    r"(?P<skip><!-- not run[^>]*-->\n)?```(?P<kind>\w+)\n(?P<body>.*?)```", re.DOTALL
)


def test_the_python_blocks_run_and_print_what_they_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMKIT_DATA_DIR", str(tmp_path))
    namespace: dict[str, object] = {}
    printed = io.StringIO()
    ran = 0
    for block in BLOCK.finditer(README):
        if block["kind"] == "python" and not block["skip"]:
            line = README[: block.start("body")].count("\n")
            code = compile("\n" * line + block["body"], "README.md", "exec")
            with contextlib.redirect_stdout(printed):
                exec(code, namespace)  # noqa: S102 - the README is ours
            ran += 1
        elif block["kind"] == "text":
            assert printed.getvalue() == block["body"]
            printed = io.StringIO()
    assert ran >= 2


def test_its_commands_links_and_pictures_exist() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", README):
        assert (ROOT / link).exists(), link
    for name in re.findall(r"python -m benchmarks (\w+)", README):
        assert (ROOT / "benchmarks" / f"{name}.py").exists(), name
