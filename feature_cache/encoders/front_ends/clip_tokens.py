"""CLIP's tokenizer: text -> 77 token ids (Radford et al. 2021, arXiv:2103.00020; github.com/openai/CLIP).

Byte-pair encoding of lower-case text, with an end on every word. OpenAI's own tokenizer, which ImageBind uses, and that
of Hugging Face, which LanguageBind uses, have the same vocabulary, but clean the text and fill up differently.
"""

import gzip
import html
import json
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int64

from feature_cache.errors import WeightsError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

LENGTH = 77
START, END = "<|startoftext|>", "<|endoftext|>"
_MERGES = 48_894  # of OpenAI's file; the rest of its lines are not used
_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


@dataclass(frozen=True)
class ClipTokenizer:
    """Made with `from_bpe` or `from_files`; reads the files on the first use, and again in every process.

    Attributes:
        files: the vocabulary.
        padding: the id that fills up; None = that of the end token.
        unescape: whether HTML entities are characters.
    """

    files: tuple[Path, ...]
    padding: int | None
    unescape: bool

    @classmethod
    def from_bpe(cls, path: Path, padding: int | None = 0, unescape: bool = True) -> "ClipTokenizer":
        """Out of OpenAI's bpe_simple_vocab_16e6.txt.gz; by default like OpenAI's and ImageBind's SimpleTokenizer."""
        return cls((path,), padding, unescape)

    @classmethod
    def from_files(
        cls, vocab: Path, merges: Path, padding: int | None = None, unescape: bool = False
    ) -> "ClipTokenizer":
        """Out of a model's vocab.json and merges.txt; by default like Hugging Face's CLIPTokenizer with ftfy."""
        return cls((vocab, merges), padding, unescape)

    def encode(self, text: str) -> Int64[np.ndarray, " 77"]:
        """Ids of a text between start and end token; of a longer one the first 75 are kept.

        Raises `WeightsError` if a file of the vocabulary is missing or damaged.
        """
        import regex

        tokenizer, start, end = _load(self.files)
        words = regex.findall(_WORDS, self._clean(text), regex.IGNORECASE)
        ids = tokenizer.encode(words, is_pretokenized=True).ids[: LENGTH - 2]
        padded = np.full(LENGTH, end if self.padding is None else self.padding, np.int64)
        padded[: len(ids) + 2] = [start, *ids, end]
        return padded

    def _clean(self, text: str) -> str:
        import ftfy
        import regex

        text = ftfy.fix_text(text)
        if self.unescape:
            text = html.unescape(html.unescape(text))
        return str(regex.sub(r"\s+", " ", text).strip().lower())


@cache
def _load(files: tuple[Path, ...]) -> tuple["Tokenizer", int, int]:
    """The tokenizer, its start and its end token."""
    from tokenizers import AddedToken, Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel

    try:
        vocabulary, merges = _from_bpe(*files) if len(files) == 1 else _from_files(*files)
        start, end = vocabulary[START], vocabulary[END]
    except Exception as error:  # whatever gzip, JSON and a foreign file's lines lead to
        raise WeightsError(
            f"CLIP's vocabulary in {' and '.join(map(str, files))} cannot be read: {error!r}. Get it again: install "
            "the package that it is from with --force-reinstall, or download the model's folder anew."
        ) from error
    model = BPE(vocab=vocabulary, merges=merges, unk_token=END, end_of_word_suffix="</w>")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in (START, END)])
    return tokenizer, start, end


def _from_bpe(path: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    merges = _merges(gzip.decompress(path.read_bytes()).decode())
    letters = _letters()
    tokens = chain(letters, (letter + "</w>" for letter in letters), (a + b for a, b in merges), (START, END))
    return {token: number for number, token in enumerate(tokens)}, merges


def _from_files(vocab: Path, merges: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    return json.loads(vocab.read_text("utf-8")), _merges(merges.read_text("utf-8"))


def _merges(text: str) -> list[tuple[str, str]]:
    """Pairs of tokens, the most frequent first; the first line of the file is a title."""
    pairs = [tuple(line.split()) for line in text.strip().split("\n")[1 : _MERGES + 1]]
    return [(first, second) for first, second in pairs]


def _letters() -> list[str]:
    """What stands for each of the 256 bytes in a vocabulary, in its order: printable characters of Latin-1, then more.

    >>> len(_letters()), _letters()[0], _letters()[-1]
    (256, '!', 'Ń')
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [chr(byte) for byte in printable] + [chr(256 + number) for number in range(256 - len(printable))]
