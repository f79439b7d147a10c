"""Deterministic stand-ins for models."""

import hashlib
import io
import re

import numpy as np
from langchain_core.embeddings import Embeddings


class HashEmbeddings(Embeddings):
    """A bag of hashed words: texts that share words are near, and equal texts are equal."""

    def __init__(self, dims: int = 32) -> None:
        self.dims = dims
        self.document_calls: list[list[str]] = []
        self.query_calls: list[str] = []

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.document_calls.append(list(texts))
        return [self._embed(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        self.query_calls.append(text)
        return self._embed(text)

    def _embed(self, text: str) -> list[float]:
        vector = np.full(self.dims, 0.01)
        for word in re.findall(r"\w+", text.lower()):
            digest = hashlib.sha256(word.encode("utf-8", "replace")).digest()
            vector[int.from_bytes(digest[:4]) % self.dims] += 1.0 if digest[4] % 2 else -1.0
        return [float(number) for number in vector / np.linalg.norm(vector)]


class Terminal(io.StringIO):
    """What somebody types on a terminal."""

    def isatty(self) -> bool:
        return True
