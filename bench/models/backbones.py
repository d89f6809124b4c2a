"""Locate and load text and image encoders: built in, a folder, a hub id, or a configuration with random weights."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.data.framing import Framing, PictureSize
from bench.models import families
from bench.models.config import CONFIGURATIONS, PRETRAINED, Modality
from bench.models.families import Pooling
from bench.models.loading import model_files
from bench.models.loading.folder_content import fetch_weights, local_folder, read_json
from bench.models.loading.model_files import check_location, check_weights
from bench.models.loading.picture_processor import read_processor
from bench.utils.errors import UserError
from bench.utils.text import did_you_mean, printable

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

BUILTIN_DIR = Path(__file__).parent / "builtin"
DEFAULT_MEAN_STD = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Preprocessing:
    """Preprocessing of items for one encoder: tokenizer settings for text, size and normalisation for images.

    Attributes:
        tokenizer: folder of the tokenizer; None if words are hashed (encoders known by configuration alone).
        vocab_size: vocabulary size of the encoder; the range of hashed words.
        positions: maximum number of tokens that the encoder takes; None if it has no limit.
        pad_to: number of tokens that every title is padded to, with padding that counts as text (SigLIP); None if
            padding is masked.
        lower_case: True if titles are lower-cased before the tokenizer gets them, as the folder asks for.
        image_size: height and width in pixels; None for text.
        mean, std: normalisation constants per channel, for pixels scaled to 0..1.
        framing: resizing and cropping of pictures; None for plain resizing to ``image_size``.
        notes: steps that the folder asks for and that are done in another way.

    Raises:
        ValueError: mean and std are not three numbers each, an std is not above 0, or image_size is below 1.
    """

    tokenizer: str | None = None
    vocab_size: int = 0
    positions: int | None = None
    pad_to: int | None = None
    lower_case: bool = False
    image_size: int | None = None
    mean: tuple[float, ...] = DEFAULT_MEAN_STD
    std: tuple[float, ...] = DEFAULT_MEAN_STD
    framing: Framing | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != 3 or not all(isinstance(value, int | float) and abs(value) < 1e6 for value in values):
                raise ValueError(f"the {name} of a picture must be three numbers, got {values}")
        if min(self.std) <= 0:
            raise ValueError(f"the std of a picture must be above 0, got {self.std}")
        if self.image_size is not None and self.image_size < 1:
            raise ValueError(f"the image size must be at least 1 pixel, got {self.image_size}")

    @property
    def picture(self) -> PictureSize | None:
        """Size or framing of pictures, as readers of data take it; None for text."""
        return self.image_size if self.framing is None else self.framing

    def digest(self) -> str:
        """Digest for cache keys, 16 hexadecimal digits, wherever the folder of the tokenizer lies."""
        anywhere = dataclasses.replace(self, tokenizer=None if self.tokenizer is None else "")
        return hashlib.sha256(repr(anywhere).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Source:
    """An encoder before its weights are loaded: name, location, configuration and preprocessing.

    Attributes:
        location: folder (of a hub id its snapshot in the local hub cache), or the name of a built-in configuration.
        random: True if the weights are drawn at random from the configuration.
        full_config: configuration of the model at ``location``; one of two towers (CLIP, SigLIP) is ``config``.
        pooling: the requested pooling; "auto" is resolved by ``pooling.choose_pooling``.
        trust_remote_code: True if Python files at ``location`` may run.
    """

    name: str
    modality: Modality
    location: str
    random: bool
    full_config: PretrainedConfig = field(repr=False)
    preprocessing: Preprocessing
    pooling: Pooling = "auto"
    trust_remote_code: bool = False

    @property
    def config(self) -> PretrainedConfig:
        """Configuration of the encoder itself: that of the tower if the model has two."""
        return families.tower_config(self.full_config, self.modality)

    @property
    def width(self) -> int:
        """Size of an item's vector: the width of the last layer, which is the widest."""
        return max(self.widths)

    @property
    def widths(self) -> tuple[int, ...]:
        """Size of a token's state after layers 0 (the embeddings) to depth."""
        return families.widths(self.config)

    @property
    def depth(self) -> int:
        """Number of layers."""
        return families.depth(self.config)


def builtin_folder(name: str, modality: Modality) -> Path:
    """Folder of a shipped backbone, from the name of a pair in ``PRETRAINED``."""
    return BUILTIN_DIR / PRETRAINED[name][modality]


def locate(
    name: str,
    modality: Modality,
    weights: str = "pretrained",
    pooling: Pooling = "auto",
    *,
    trust_remote_code: bool = False,
) -> Source:
    """Resolve a built-in name, a folder or a hub id to a source, without loading weights.

    Python files that come with a model run only with ``trust_remote_code``.

    Raises:
        UserError: unknown model, wrong modality, unreadable configuration, or missing weights.
    """
    option = f"--{modality}-model {printable(name)}"
    if name in CONFIGURATIONS:
        return _from_configuration(name, modality, weights, pooling, option)
    if name.startswith("shop-") and name not in PRETRAINED and not os.path.isdir(name):
        raise UserError(f"{option}: unknown built-in encoder{did_you_mean(name, PRETRAINED)}")
    location = _folder_of(str(builtin_folder(name, modality)) if name in PRETRAINED else name, option)
    full = _read_config(location, option, trust_remote_code)
    try:
        preprocessing = _preprocessing(location, families.tower_config(full, modality), modality, option)
        if full.model_type in families.MASKING:
            full.mask_ratio = 0.0
        source = Source(name, modality, location, weights == "random", full, preprocessing, pooling, trust_remote_code)
        if source.width < 1 or source.depth < 1:
            raise ValueError(f"{source.depth} layers of width {source.width}")
    except (ValueError, TypeError, LookupError, AttributeError, OSError, RecursionError) as error:
        why = model_files.why_no_layers(error) or f"its configuration is not valid: {_first_line(error)}"
        raise UserError(f"{option}: {why}") from error
    if weights != "random":
        check_weights(location, option)
    return source


def _from_configuration(name: str, modality: Modality, weights: str, pooling: Pooling, option: str) -> Source:
    from transformers import AutoConfig

    modalities, family = CONFIGURATIONS[name]
    if modality not in modalities:
        raise UserError(f"{option}: {name} is {'an' if modalities[0] == 'image' else 'a'} {modalities[0]} encoder")
    if weights != "random":
        raise UserError(f"{option}: only its configuration is built in; add --weights random, or name a folder or id")
    full = AutoConfig.for_model(family)
    config = families.tower_config(full, modality)
    if modality == "text":
        preprocessing = Preprocessing(vocab_size=int(config.vocab_size), positions=families.positions(config))
    else:
        preprocessing = Preprocessing(image_size=int(config.image_size))
    return Source(name, modality, name, True, full, preprocessing, pooling)


def _folder_of(location: str, option: str) -> str:
    # An unreachable hub is reported in one line, not in one line per attempt.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    check_location(location, option)
    try:
        return str(local_folder(location))
    except Exception as error:
        raise UserError(f"{option}: the model cannot be found or fetched: {_first_line(error)}") from error


def _read_config(location: str, option: str, trust_remote_code: bool) -> PretrainedConfig:
    from transformers import AutoConfig

    # An unreachable hub is reported below in one line, not in one line per attempt.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    check_location(location, option)
    model_files.check_files(location, option)
    try:
        config = AutoConfig.from_pretrained(location, trust_remote_code=trust_remote_code)
    except Exception as error:
        why = model_files.TIMM if "timm library" in str(error) else ""
        raise UserError(f"{option}: {why or f'the configuration cannot be loaded: {_first_line(error)}'}") from error
    if model_files.is_timm(config):
        raise UserError(f"{option}: {model_files.TIMM}")
    model_files.settle(config, option)
    return config


def _first_line(error: Exception) -> str:
    if "trust_remote_code" in str(error):  # the message of transformers names an argument, not an option
        return "the model comes with Python code, which runs only with --trust-remote-code"
    if "ignore_mismatched_sizes" in str(error):  # its message names an argument and a table that is not shown
        return "weights in the checkpoint have other shapes than config.json says"
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]


def _preprocessing(location: str, config: PretrainedConfig, modality: Modality, option: str) -> Preprocessing:
    size = getattr(config, "image_size", None)
    if modality == "text":
        if not getattr(config, "vocab_size", None) or size is not None:
            raise UserError(f"{option}: {config.model_type} is not a text encoder")
        if config.is_encoder_decoder and config.model_type not in families.CLASSES:
            raise UserError(f"{option}: {config.model_type} is an encoder with a decoder; these are not supported")
        positions = families.positions(config)
        pad_to = positions if config.model_type in families.ALWAYS_PADDED else None
        lower_case = read_json(Path(location) / "sentence_bert_config.json").get("do_lower_case") is True
        return Preprocessing(location, int(config.vocab_size), positions, pad_to, lower_case)
    if size is None:
        raise UserError(f"{option}: {model_files.why_no_image_encoder(config)}")
    if getattr(config, "num_channels", 3) != 3:
        raise UserError(f"{option}: it takes pictures of {config.num_channels} channels; only 3 (RGB) are supported")
    if isinstance(size, list | tuple) and len(set(size)) > 1:
        raise UserError(
            f"{option}: it takes pictures of {' × '.join(map(str, size))} pixels; only squares are supported"
        )
    any_size = config.model_type in families.ANY_SIZE
    found = read_processor(_processor_facts(location), config.model_type, size, any_size=any_size)
    framing = None if found.framing == Framing.of(found.framing.size) else found.framing
    notes = found.notes
    if config.model_type in families.MASKING:
        notes += (f"{config.model_type} hides {config.mask_ratio:.0%} of the patches at random; here it hides none",)
    return Preprocessing(image_size=found.framing.size, mean=found.mean, std=found.std, framing=framing, notes=notes)


def _processor_facts(location: str) -> dict[str, Any]:
    """Content of the image processor's file; empty if there is none, so that ViT's defaults apply."""
    folder = Path(location)
    for name, key in (("preprocessor_config.json", None), ("processor_config.json", "image_processor")):
        if (folder / name).is_file():
            facts: dict[str, Any] = json.loads((folder / name).read_text(encoding="utf-8"))
            return facts if key is None else facts.get(key, {})
    return {}


def load_model(source: Source, device: str = "cpu") -> torch.nn.Module:
    """Load the transformers model in 32 bit, in eval mode, without poolers and heads; one tower if the model has two.

    On the device "meta" only names and shapes of pretrained weights are read, and the model has no values.

    Weights come from safetensors only. A 16-bit checkpoint is converted: the dtype is given explicitly, because
    transformers would keep 16 bit.

    Raises:
        UserError: the weights cannot be loaded, or the checkpoint lacks some of them.
    """
    import transformers
    from transformers.utils import logging as transformers_logging

    from bench.models.structure import drop_unused_modules

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    cls = getattr(transformers, families.CLASSES.get(source.full_config.model_type, "AutoModel"))
    full, missing = (_random_model(cls, source), []) if source.random else _pretrained_model(cls, source, device)
    prefix, model = _find_tower(full, source)
    drop_unused_modules(model)
    if model_files.has_batch_norm(model):
        option = f"--{source.modality}-model {source.name}"
        raise UserError(f"{option}: {source.config.model_type} is not supported: {model_files.BATCH_NORM}")
    # transformers draws missing weights at random and continues; a benchmark must not.
    used = {f"{prefix}{name}" for name in model.state_dict()}
    absent = sorted(used.intersection(missing))
    if absent:
        option = f"--{source.modality}-model {source.name}"
        raise UserError(f"{option}: {len(absent)} weights are not in the checkpoint, e.g. {absent[0]}")
    if getattr(model.config, "use_cache", False):
        model.config.use_cache = False  # decoders would return their keys and values, which only text generation needs
    return model.eval()


def _random_model(cls: Any, source: Source) -> Any:
    import torch

    config = copy.deepcopy(source.full_config)  # transformers writes into it, and it names the caches
    try:
        if cls.__name__ == "AutoModel":
            return cls.from_config(config, dtype=torch.float32, trust_remote_code=source.trust_remote_code)
        return cls(config).float()
    except (ImportError, ValueError, TypeError, LookupError, AttributeError, AssertionError) as error:
        option = f"--{source.modality}-model {source.name}"
        raise UserError(f"{option}: the model cannot be built: {_first_line(error)}") from error


def _pretrained_model(cls: Any, source: Source, device: str) -> tuple[Any, list[str]]:
    """The model with the weights of its checkpoint, and the names of the weights that the checkpoint lacks."""
    import torch

    from bench.models.loading.buffers import restore_buffers

    try:
        fetch_weights(source.name, Path(source.location))
        model, info = cls.from_pretrained(
            source.location,
            config=copy.deepcopy(source.full_config),  # transformers writes into it, and it names the caches
            device_map={"": device} if device == "meta" else None,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=source.trust_remote_code,
            output_loading_info=True,
        )
    except Exception as error:
        option = f"--{source.modality}-model {source.name}"
        raise UserError(f"{option}: the weights cannot be loaded: {_first_line(error)}") from error
    if device != "meta" and getattr(source.full_config, "auto_map", None):
        restore_buffers(model, lambda: _random_model(cls, source))
    return model, list(info["missing_keys"])


def _find_tower(full: Any, source: Source) -> tuple[str, Any]:
    """Encoder of the modality in a model of two towers, preceded by the prefix of its weights' names in that model."""
    if source.config is source.full_config:
        return "", full
    for name, module in full.named_modules():
        if name and getattr(getattr(module, "config", None), "model_type", None) == source.config.model_type:
            return f"{name}.", module
    option = f"--{source.modality}-model {source.name}"
    raise UserError(f"{option}: no {source.modality} encoder found in {type(full).__name__}")
