"""CLIP's token ids against the two tokenizers that the encoders' authors use."""

import gzip
import importlib
import json
import pickle
import sys
import warnings
from importlib.metadata import distribution
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_cache.encoders.front_ends.clip_tokens import ClipTokenizer
from feature_cache.encoders.weights.packages import WeightsError

TEXTS = [
    "a photo of a cat",
    "",
    " \t\n ",
    "Two DOGS' owners can't stop, won't stop; they'll've 1234.5 reasons!",
    "café naïve ﬁancé Ångström ΣΊΣΥΦΟΣ İstanbul ſ'ſ 'S",
    "👩‍👩‍👧 🐈‍⬛ 🇯🇵 ☺️ thumbs👍🏽up",
    "שלום עולם",
    "مرحبا بالعالم ١٢٣",
    "一只猫坐在沙发上 こんにちは 안녕하세요",
    "fish &amp; chips &amp;lt;br&amp;gt; &#128512; &nbsp; &unknown;",
    "âœ” mojibake schÃ¶n",
    "a\u200bb\u00a0c\u3000d\u2028e\x1cf\x00g",
    "<|startoftext|>between<|endoftext|> <|ENDOFTEXT|>",
    "e\u0301 combining n\u0303 हिन्दी",
    " ".join(f"word{number}" for number in range(200)),
    "x" * 1000,
    "cat " * 75,
    "cat " * 76,
]


def bpe_file() -> Path:
    return Path(str(distribution("imagebind-unofficial").locate_file("imagebind/bpe/bpe_simple_vocab_16e6.txt.gz")))


@pytest.fixture(scope="module")
def imagebinds() -> Any:
    """The tokenizer in ImageBind's package, without what its modules import and a tokenizer does not need."""
    package, timm, layers = ModuleType("imagebind"), ModuleType("timm"), ModuleType("timm.layers")
    package.__path__ = [str(bpe_file().parents[1])]
    layers.trunc_normal_ = layers.DropPath = None  # type: ignore[attr-defined]
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings(action="ignore"):
        for module in (package, timm, layers):
            patch.setitem(sys.modules, module.__name__, module)
        upstream = importlib.import_module("imagebind.models.multimodal_preprocessors")
        for name in sorted(set(sys.modules) - before):
            if name.startswith("imagebind."):
                del sys.modules[name]
    return upstream.SimpleTokenizer(str(bpe_file()))


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """vocab.json and merges.txt as they lie beside a model on the hub."""
    folder = tmp_path_factory.mktemp("snapshot")
    lines = gzip.decompress(bpe_file().read_bytes()).decode().split("\n")[1:48895]
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(code) for code in printable] + [chr(256 + n) for n in range(256 - len(printable))]
    words = [*letters, *(letter + "</w>" for letter in letters), *(line.replace(" ", "") for line in lines)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocab, merges = folder / "vocab.json", folder / "merges.txt"
    vocab.write_text(json.dumps({word: number for number, word in enumerate(words)}), "utf-8")
    merges.write_text("\n".join(["#version: 0.2", *lines]) + "\n", "utf-8")
    return vocab, merges


@pytest.fixture(scope="module")
def hugging_faces(snapshot: tuple[Path, Path]) -> Any:
    from transformers import CLIPTokenizer

    return CLIPTokenizer(*(str(file) for file in snapshot), model_max_length=77)


def as_hugging_face(tokenizer: Any, text: str) -> list[int]:
    encoded = tokenizer(text, max_length=77, padding="max_length", truncation=True)
    return list(encoded["input_ids"])


@pytest.mark.parametrize("text", TEXTS)
def test_openais_tokens_are_those_of_imagebinds_tokenizer(imagebinds: Any, text: str) -> None:
    tokens = ClipTokenizer.from_bpe(bpe_file()).encode(text)
    assert tokens.dtype == np.int64
    assert tokens.tolist() == imagebinds(text).tolist()


@pytest.mark.parametrize("text", TEXTS)
def test_a_snapshots_tokens_are_those_of_hugging_faces_tokenizer(
    hugging_faces: Any, snapshot: tuple[Path, Path], text: str
) -> None:
    assert ClipTokenizer.from_files(*snapshot).encode(text).tolist() == as_hugging_face(hugging_faces, text)


@given(text=st.text(max_size=60))
@settings(deadline=None, max_examples=300)
def test_any_text_has_the_same_tokens_as_upstream(
    imagebinds: Any, hugging_faces: Any, snapshot: tuple[Path, Path], text: str
) -> None:
    assert ClipTokenizer.from_bpe(bpe_file()).encode(text).tolist() == imagebinds(text).tolist()
    assert ClipTokenizer.from_files(*snapshot).encode(text).tolist() == as_hugging_face(hugging_faces, text)


def test_both_files_hold_the_same_vocabulary(snapshot: tuple[Path, Path]) -> None:
    openais = ClipTokenizer.from_bpe(bpe_file(), padding=None)
    hubs = ClipTokenizer.from_files(*snapshot, unescape=True)
    for text in TEXTS:
        np.testing.assert_array_equal(openais.encode(text), hubs.encode(text))


def test_the_padding_is_zero_or_the_end_token_or_what_is_asked_for(snapshot: tuple[Path, Path]) -> None:
    assert ClipTokenizer.from_bpe(bpe_file()).encode("cat")[:5].tolist() == [49406, 2368, 49407, 0, 0]
    assert ClipTokenizer.from_files(*snapshot).encode("cat")[:5].tolist() == [49406, 2368, 49407, 49407, 49407]
    assert ClipTokenizer.from_bpe(bpe_file(), padding=7).encode("cat")[-1] == 7


def test_a_tokenizer_travels_to_another_process(snapshot: tuple[Path, Path]) -> None:
    for tokenizer in (ClipTokenizer.from_bpe(bpe_file()), ClipTokenizer.from_files(*snapshot)):
        tokenizer.encode("loaded")
        assert len(pickle.dumps(tokenizer)) < 1000
        copy = pickle.loads(pickle.dumps(tokenizer))
        np.testing.assert_array_equal(copy.encode("a dog"), tokenizer.encode("a dog"))


def test_a_missing_or_damaged_or_foreign_vocabulary_is_refused(tmp_path: Path, snapshot: tuple[Path, Path]) -> None:
    (tmp_path / "cut.gz").write_bytes(bpe_file().read_bytes()[:5000])
    (tmp_path / "text.gz").write_text("no gzip file")
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    (tmp_path / "merges.txt").write_text("title\na b c\n")
    tokenizers = [ClipTokenizer.from_bpe(tmp_path / name) for name in ("none.gz", "cut.gz", "text.gz")]
    tokenizers.append(ClipTokenizer.from_files(tmp_path / "vocab.json", snapshot[1]))
    tokenizers.append(ClipTokenizer.from_files(snapshot[0], tmp_path / "merges.txt"))
    for tokenizer in tokenizers:
        with pytest.raises(WeightsError, match="CLIP's vocabulary in .* cannot be read: .*Get it again"):
            tokenizer.encode("cat")
