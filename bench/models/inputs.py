"""Inputs of the encoders: token ids, pixels or cached hidden states of all items, gathered by item index."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from bench.data.cache import array_cache, eviction
from bench.data.cache.array_file import Layout, Rows
from bench.data.cache.location import cache_dir
from bench.data.catalogue import Catalogue
from bench.models.backbones import Source
from bench.utils.errors import UserError
from bench.utils.files import atomic_path, digest_of

TITLES_AT_ONCE = 4096  # the objects a tokenizer returns for a title take a hundred times the memory of its ids
HASH_RESERVED = 1000  # BERT's vocabulary starts with about a thousand special and unused tokens
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt",
    "vocab.json", "merges.txt", "spiece.model", "spm.model", "sentencepiece.bpe.model", "tokenizer.model",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Tokens:
    """Token ids of the titles of a catalogue.

    Attributes:
        ids: (items, tokens) int32, padded on the right.
        lengths: number of real tokens per title, (items,).
        unknown_share: share of the tokens that the tokenizer's vocabulary lacks, 0 to 1.
    """

    ids: NDArray[np.int32]
    lengths: NDArray[np.int32]
    unknown_share: float


class ItemFeed:
    """Inputs of all items, from which those of a batch are gathered; text is cut to the longest title of the batch."""

    def __init__(self, tokens: Tokens | None = None, arrays: Mapping[str, NDArray[Any] | Rows] | None = None):
        self.tokens = tokens
        self.arrays = dict(arrays or {})

    def gather(self, rows: NDArray[np.int64]) -> dict[str, Tensor]:
        """Inputs of the items ``rows`` in host memory; the keys are those of ``bench.models.encoders.Inputs``."""
        inputs = {key: torch.from_numpy(np.ascontiguousarray(array[rows])) for key, array in self.arrays.items()}
        if self.tokens is not None:
            lengths = self.tokens.lengths[rows]
            longest = int(lengths.max())
            inputs["input_ids"] = torch.from_numpy(self.tokens.ids[rows, :longest].astype(np.int64))
            inputs["attention_mask"] = torch.from_numpy((np.arange(longest) < lengths[:, None]).astype(np.int64))
        return inputs


def tokenise(catalogue: Catalogue, source: Source, max_tokens: int) -> Tokens:
    """Tokenise the lower-cased titles of a catalogue; the result is cached on disk by digest.

    Args:
        max_tokens: maximum number of tokens per title, special ones included; the encoder's limit if that is lower.

    Raises:
        UserError: the tokenizer cannot be loaded, has no padding token, or does not match the model's vocabulary.
    """
    key = digest_of("tokens-1", catalogue.digest, source.preprocessing.digest(), _tokenizer_digest(source), max_tokens)
    path = cache_dir() / "tokens" / f"{key}.npz"
    if path.is_file():
        try:
            with np.load(path, allow_pickle=False) as stored:
                tokens = Tokens(stored["ids"], stored["lengths"], float(stored["unknown_share"]))
            eviction.touch(path)
            return tokens
        except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error):
            path.unlink(missing_ok=True)  # a damaged file is built again, never used
    titles = [title.lower() for title in catalogue.titles]
    limit = min(max_tokens, source.preprocessing.positions or max_tokens)
    if source.preprocessing.tokenizer is None:
        tokens = _hashed(titles, source.preprocessing.vocab_size, limit)
    else:
        tokens = _tokenised(titles, source, limit)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as partial, partial.open("wb") as file:
        np.savez(file, ids=tokens.ids, lengths=tokens.lengths, unknown_share=np.float64(tokens.unknown_share))
    return tokens


def _tokenizer_digest(source: Source) -> str:
    """Digest of the tokenizer: of the files' content for a folder, the id itself for a model on a hub."""
    from pathlib import Path

    folder = Path(source.location)
    files = [folder / name for name in TOKENIZER_FILES]
    return digest_of(*(path.read_bytes() for path in files if path.is_file())) if folder.is_dir() else source.location


def _tokenised(titles: Sequence[str], source: Source, max_tokens: int) -> Tokens:
    from transformers import AutoTokenizer

    option = f"--text-model {source.name}"
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source.preprocessing.tokenizer, trust_remote_code=source.trust_remote_code
        )
    except Exception as error:
        raise UserError(f"{option}: the tokenizer cannot be loaded: {str(error).splitlines()[0][:300]}") from error
    if tokenizer.pad_token_id is None:
        # GPT-2 and Llama have none. Any token will do, because the mask hides the padding.
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token_id is None:
        raise UserError(f"{option}: the tokenizer has no padding token and none that could replace it")
    pre = source.preprocessing
    ids, lengths = _encoded(tokenizer, titles, max_tokens)
    if ids.max() >= pre.vocab_size:
        raise UserError(f"{option}: the tokenizer gives ids beyond the model's vocabulary of {pre.vocab_size}")
    unknown = _unknown_share(tokenizer, ids, lengths)
    if pre.pad_to is not None:
        ids = np.pad(ids, ((0, 0), (0, pre.pad_to - ids.shape[1])), constant_values=tokenizer.pad_token_id)
        return Tokens(ids, np.full(len(ids), pre.pad_to, dtype=np.int32), unknown)
    return Tokens(ids, lengths, unknown)


def _encoded(tokenizer: Any, titles: Sequence[str], max_tokens: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Token ids, (titles, max_tokens), padded on the right, and the number of real ones per title, (titles,)."""
    ids = np.zeros((len(titles), max_tokens), dtype=np.int32)
    lengths = np.zeros(len(titles), dtype=np.int32)
    for start in range(0, len(titles), TITLES_AT_ONCE):
        rows = slice(start, start + TITLES_AT_ONCE)
        encoded = tokenizer(
            list(titles[rows]),
            truncation=True,
            max_length=max_tokens,
            padding="max_length",
            padding_side="right",
            return_attention_mask=True,
            return_tensors="np",
        )
        ids[rows], lengths[rows] = encoded["input_ids"], encoded["attention_mask"].sum(axis=1)
    return ids, lengths


def _unknown_share(tokenizer: Any, ids: NDArray[np.int32], lengths: NDArray[np.int32]) -> float:
    """Share of unknown tokens among those that are not special; 0 for byte-level tokenizers, which know all words."""
    unknown = tokenizer.unk_token_id
    # Byte-level tokenizers (GPT-2, CLIP) use the end-of-text token as the unknown one too.
    if unknown is None or unknown in (tokenizer.eos_token_id, tokenizer.bos_token_id, tokenizer.pad_token_id):
        return 0.0
    real = np.arange(ids.shape[1]) < lengths[:, None]
    words = real & ~np.isin(ids, [i for i in tokenizer.all_special_ids if i != unknown])
    return float((ids[words] == unknown).mean()) if words.any() else 0.0


def _hashed(titles: Sequence[str], vocab_size: int, max_tokens: int) -> Tokens:
    """Token ids from hashes of words, for encoders without a tokenizer: real lengths and costs, no meaning."""
    ids = np.zeros((len(titles), max_tokens), dtype=np.int32)
    lengths = np.zeros(len(titles), dtype=np.int32)
    for row, title in enumerate(titles):
        words = title.split()[: max_tokens - 2]
        hashed = [
            int.from_bytes(hashlib.sha256(w.encode()).digest()[:4], "big") % (vocab_size - HASH_RESERVED) for w in words
        ]
        full = [101, *(h + HASH_RESERVED for h in hashed), 102]
        ids[row, : len(full)] = full
        lengths[row] = len(full)
    return Tokens(ids, lengths, 0.0)


def pixels(catalogue: Catalogue, size: int) -> NDArray[np.uint8] | Rows:
    """Images of a catalogue at the encoder's size, (items, size, size, 3) uint8; resized once and cached on disk.

    Raises:
        UserError: the dataset has no images.
    """
    images = catalogue.images
    if images is None:
        raise UserError(f"dataset {catalogue.name} has no images: use --modality text, or give --image-dir")
    if images.shape[1:3] == (size, size):
        return images

    def resized(rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        pictures = (Image.fromarray(images[row]) for row in rows)
        return np.stack([np.asarray(each.resize((size, size), Image.Resampling.BILINEAR)) for each in pictures])

    key = digest_of("pixels-1", catalogue.digest, size)
    layout = Layout(key, "pixels", (len(images), size, size, 3), "uint8", {"catalogue": catalogue.name})
    return array_cache.open_or_build(cache_dir() / "pixels", layout, resized).rows
