"""Inputs of the encoders: token ids, pixels or cached hidden states of all items, gathered by item index."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import tokenizers
import torch
import transformers
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from bench.data.cache import array_cache, eviction
from bench.data.cache.array_file import Layout, Rows
from bench.data.cache.catalogue_store import array_digest
from bench.data.cache.location import cache_dir
from bench.data.catalogue import Catalogue
from bench.data.framing import Framing, PictureSize
from bench.data.kinds import GENERATED
from bench.models.backbones import Source
from bench.models.loading.folder_content import files_digest, read_json
from bench.utils.errors import UserError
from bench.utils.files import atomic_path, digest_of

# Files of a tokenizer that hold no vocabulary, and files of a vocabulary that a class of another name may read.
NO_VOCABULARY = frozenset({"tokenizer_config.json", "added_tokens.json", "special_tokens_map.json", "merges.txt"})
OTHER_VOCABULARIES = frozenset({"tokenizer.json", "tokenizer.model", "tekken.json"})
VOCABULARIES = ("tokenizer*.json", "vocab*", "*.model", "*.tiktoken", "*.spm", "*.bpe")
COMPARED_TITLES = 1000
_SHARES = ("unknown_share", "altered_share")
TITLES_AT_ONCE = 4096  # the objects a tokenizer returns for a title take a hundred times the memory of its ids
HASH_RESERVED = 1000  # BERT's vocabulary starts with about a thousand special and unused tokens


@dataclass(frozen=True, eq=False)
class Tokens:
    """Token ids of the titles of a catalogue.

    Attributes:
        ids: (items, tokens) int32, padded on the right.
        lengths: number of real tokens per title, (items,).
        unknown_share: share of the tokens that the tokenizer's vocabulary lacks, 0 to 1.
        altered_share: share of titles that the tokenizer's class splits in another way than its tokenizer.json, 0 to 1.
    """

    ids: NDArray[np.int32]
    lengths: NDArray[np.int32]
    unknown_share: float
    altered_share: float = 0.0

    @property
    def distinct(self) -> int:
        """Number of titles that differ in their tokens."""
        return len({row[:n].tobytes() for row, n in zip(self.ids, self.lengths, strict=True)})

    def digest(self) -> str:
        """Digest of the ids and lengths, for cache keys."""
        return digest_of(array_digest(self.ids), array_digest(self.lengths))


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


def tokenise(catalogue: Catalogue, source: Source, max_tokens: int, *, lower_case: bool = False) -> Tokens:
    """Tokenise the titles of a catalogue; the result is cached on disk by digest.

    Args:
        max_tokens: maximum number of tokens per title, special ones included; the encoder's limit if that is lower.
        lower_case: lower-case the titles first; False leaves case to the tokenizer, unless the folder asks for it.

    Raises:
        UserError: the folder has no tokenizer, or the tokenizer cannot be loaded, has no padding token, or does not
            match the model's vocabulary.
    """
    lower_case = lower_case or source.preprocessing.lower_case
    parts = catalogue.digest, source.preprocessing.digest(), _tokenizer_digest(source), max_tokens, lower_case
    key = digest_of("tokens-2", *parts, transformers.__version__, tokenizers.__version__)
    path = cache_dir() / "tokens" / f"{key}.npz"
    if path.is_file():
        try:
            with np.load(path, allow_pickle=False) as stored:
                tokens = Tokens(stored["ids"], stored["lengths"], *(float(stored[name]) for name in _SHARES))
            eviction.touch(path)
            return tokens
        except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error):
            path.unlink(missing_ok=True)  # a damaged file is built again, never used
    titles = [title.lower() for title in catalogue.titles] if lower_case else list(catalogue.titles)
    limit = min(max_tokens, source.preprocessing.positions or max_tokens)
    if source.preprocessing.tokenizer is None:
        tokens = _hashed([title.lower() for title in titles], source.preprocessing.vocab_size, limit)
    else:
        tokens = _tokenised(titles, source, limit)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as partial, partial.open("wb") as file:
        shares: dict[str, Any] = {name: np.float64(getattr(tokens, name)) for name in _SHARES}
        np.savez(file, ids=tokens.ids, lengths=tokens.lengths, **shares)
    return tokens


def _tokenizer_digest(source: Source) -> str:
    """Digest of the model's files, with all that its tokenizer may be made of; "" if words are hashed."""
    return "" if source.preprocessing.tokenizer is None else files_digest(Path(source.location))


def _tokenised(titles: Sequence[str], source: Source, max_tokens: int) -> Tokens:
    from transformers import AutoTokenizer

    option = f"--text-model {source.name}"
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source.preprocessing.tokenizer, trust_remote_code=source.trust_remote_code
        )
    except Exception as error:
        folder = Path(source.location)
        if not any(path.name not in NO_VOCABULARY for pattern in VOCABULARIES for path in folder.glob(pattern)):
            raise _no_tokenizer(option, folder, {"tokenizer.json"}) from error
        said = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise UserError(f"{option}: the tokenizer cannot be loaded: {said}") from error
    _check_files(tokenizer, Path(source.location), option)
    if tokenizer.pad_token_id is None:
        # GPT-2 and Llama have none. Any token will do, because the mask hides the padding.
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token_id is None:
        raise UserError(f"{option}: the tokenizer has no padding token and none that could replace it")
    pre = source.preprocessing
    first, last = _missing_ends(tokenizer, Path(source.location))
    ids, lengths = _encoded(tokenizer, titles, max_tokens - len(first) - len(last))
    ids, lengths = _with_ends(ids, lengths, first, last, tokenizer.pad_token_id)
    if ids.max() >= pre.vocab_size:
        raise UserError(f"{option}: the tokenizer gives ids beyond the model's vocabulary of {pre.vocab_size}")
    unknown = _unknown_share(tokenizer, ids, lengths)
    if pre.pad_to is not None:
        ids = np.pad(ids, ((0, 0), (0, pre.pad_to - ids.shape[1])), constant_values=tokenizer.pad_token_id)
        lengths = np.full(len(ids), pre.pad_to, dtype=np.int32)
    return Tokens(ids, lengths, unknown, _altered_share(tokenizer, titles, Path(source.location) / "tokenizer.json"))


def _check_files(tokenizer: Any, folder: Path, option: str) -> None:
    """Refuse a tokenizer that was not read from the folder: without its files transformers makes one up.

    Raises:
        UserError: the class of the tokenizer has a vocabulary in files, and the folder has none of them.
    """
    names = {name for name in type(tokenizer).vocab_files_names.values() if isinstance(name, str)}
    vocabularies = names - NO_VOCABULARY
    whole = any(path.name not in NO_VOCABULARY for path in folder.glob("tokenizer*.json"))
    parts = [name for name in vocabularies | OTHER_VOCABULARIES if (folder / name).is_file()]
    if "merges.txt" in names and not (folder / "merges.txt").is_file():
        parts = []
    if vocabularies and not whole and not parts:
        raise _no_tokenizer(option, folder, vocabularies)


def _no_tokenizer(option: str, folder: Path, names: Set[str]) -> UserError:
    return UserError(
        f"{option}: no tokenizer files ({' or '.join(sorted(names))}) in {folder}: save the tokenizer that the model "
        "was trained with there, with save_pretrained() of transformers"
    )


def _altered_share(tokenizer: Any, titles: Sequence[str], path: Path) -> float:
    """Share of titles that come out in another way than from tokenizer.json, apart from case and a leading space.

    transformers 5 builds a tokenizer by the class that tokenizer_config.json names, and for many published models this
    is not the one that they were trained with; their tokenizer.json is.
    """
    if not path.is_file() or not titles:
        return 0.0
    stored = tokenizers.Tokenizer.from_file(str(path))
    stored.no_padding()
    stored.no_truncation()
    shown = titles[:: max(1, len(titles) // COMPARED_TITLES)]
    altered = 0
    for title in shown:
        ids = tokenizer(title, add_special_tokens=False)["input_ids"]
        forms = (title, title.lower(), f" {title}", f" {title.lower()}")
        altered += all(stored.encode(form, add_special_tokens=False).ids != ids for form in forms)
    return altered / len(shown)


def _missing_ends(tokenizer: Any, folder: Path) -> tuple[list[int], list[int]]:
    """Ids that the folder's settings put before and after a text, and that the tokenizer leaves out.

    transformers 5 does not apply ``add_bos_token`` and ``add_eos_token`` where tokenizer.json has a rule of its own;
    models that are pooled at the end token (E5-Mistral) then lack the very token that they were trained with.
    """
    settings = read_json(folder / "tokenizer_config.json")
    ids = tokenizer("a")["input_ids"]
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    first = [bos] if settings.get("add_bos_token") is True and bos is not None and bos not in ids[:1] else []
    last = [eos] if settings.get("add_eos_token") is True and eos is not None and eos not in ids[-1:] else []
    return first, last


def _with_ends(
    ids: NDArray[np.int32], lengths: NDArray[np.int32], first: list[int], last: list[int], padding: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    if not first and not last:
        return ids, lengths
    wider = np.full((len(ids), len(first) + ids.shape[1] + len(last)), padding, dtype=np.int32)
    wider[:, : len(first)] = first
    wider[:, len(first) : len(first) + ids.shape[1]] = ids
    ends = len(first) + lengths
    for place, token in enumerate(last):
        wider[np.arange(len(ids)), ends + place] = token
    return wider, (ends + len(last)).astype(np.int32)


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


def pixels(catalogue: Catalogue, picture: PictureSize) -> NDArray[np.uint8] | Rows:
    """Images of a catalogue as the encoder takes them, (items, size, size, 3) uint8; framed once and cached on disk.

    Pictures from files have been framed when they were read; those of the generated shop are framed here.

    Args:
        picture: size in pixels, or framing.

    Raises:
        UserError: the dataset has no images.
    """
    images = catalogue.images
    if images is None:
        raise UserError(f"dataset {catalogue.name} has no images: use --modality text, or give --image-dir")
    framing = Framing.of(picture)
    size = framing.size
    framed = catalogue.name != GENERATED or isinstance(framing.key, int)
    if framed and images.shape[1:3] == (size, size):
        return images

    def resized(rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        pictures = (Image.fromarray(images[row]) for row in rows)
        return np.stack([np.asarray(framing.apply(each)) for each in pictures])

    key = digest_of("pixels-2", catalogue.digest, framing.key, PIL.__version__)
    layout = Layout(key, "pixels", (len(images), size, size, 3), "uint8", {"catalogue": catalogue.name})
    return array_cache.open_or_build(cache_dir() / "pixels", layout, resized).rows
