"""Text and image encoders: built in, from a folder, from the hub, or from a configuration with random weights."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bench.errors import UserError

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

Modality = Literal["text", "image"]
BUILTIN_DIR = Path(__file__).parent / "builtin"
PRETRAINED = ("shop-partial", "shop-full")
# Known by configuration alone: transformers' defaults for these classes are the base models of the papers.
CONFIGURATIONS: dict[str, tuple[Modality, str]] = {"bert-base": ("text", "bert"), "vit-base": ("image", "vit")}
DEFAULT_MEAN_STD = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Preprocessing:
    """How items become tensors for one encoder.

    Attributes:
        tokenizer: folder or hub id of the tokenizer, or None where words are hashed (configuration only).
        vocab_size: of the encoder, for hashing.
        image_size: height and width in pixels; None for text.
        mean, std: per channel, on pixels scaled to 0..1.
    """

    tokenizer: str | None = None
    vocab_size: int = 0
    image_size: int | None = None
    mean: tuple[float, ...] = DEFAULT_MEAN_STD
    std: tuple[float, ...] = DEFAULT_MEAN_STD

    def digest(self) -> str:
        """Names the preprocessing inside cache keys."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Source:
    """Where an encoder comes from: everything that is known without its weights."""

    name: str
    modality: Modality
    location: str
    random: bool
    config: PretrainedConfig = field(repr=False)
    preprocessing: Preprocessing

    @property
    def width(self) -> int:
        """Size of a hidden state."""
        return int(self.config.hidden_size)

    @property
    def depth(self) -> int:
        """Number of layers."""
        return int(self.config.num_hidden_layers)


def builtin_folder(name: str, modality: Modality) -> Path:
    """Folder of a shipped backbone."""
    return BUILTIN_DIR / f"{modality}-{name.removeprefix('shop-')}"


def locate(name: str, modality: Modality, weights: str = "pretrained") -> Source:
    """Resolves a built-in name, a folder or a hub id to a source.

    Raises:
        UserError: no such model, wrong modality, unreadable configuration, or weights that do not exist.
    """
    option = f"--{modality}-model {name}"
    if name in CONFIGURATIONS:
        return _from_configuration(name, modality, weights, option)
    location = str(builtin_folder(name, modality)) if name in PRETRAINED else name
    config = _read_config(location, option)
    return Source(
        name, modality, location, weights == "random", config, _preprocessing(location, config, modality, option)
    )


def _from_configuration(name: str, modality: Modality, weights: str, option: str) -> Source:
    from transformers import AutoConfig

    kind, family = CONFIGURATIONS[name]
    if kind != modality:
        raise UserError(f"{option}: {name} is a {kind} encoder")
    if weights != "random":
        raise UserError(f"{option}: only its configuration is built in; add --weights random, or name a folder or id")
    config = AutoConfig.for_model(family)
    size = getattr(config, "image_size", None)
    pre = Preprocessing(vocab_size=int(getattr(config, "vocab_size", 0) or 0), image_size=size)
    return Source(name, modality, name, True, config, pre)


def _read_config(location: str, option: str) -> PretrainedConfig:
    from transformers import AutoConfig

    # A hub that cannot be reached is told in one line below, not in a line per attempt.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    folder = Path(location)
    if folder.exists() and not (folder / "config.json").is_file():
        raise UserError(f"{option}: {location} has no config.json")
    try:
        return AutoConfig.from_pretrained(location, trust_remote_code=False)
    except Exception as error:
        raise UserError(f"{option}: cannot be had: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300]


def _preprocessing(location: str, config: PretrainedConfig, modality: Modality, option: str) -> Preprocessing:
    if modality == "text":
        if not getattr(config, "vocab_size", None):
            raise UserError(f"{option}: {config.model_type} is not a text encoder")
        return Preprocessing(tokenizer=location, vocab_size=int(config.vocab_size))
    size = getattr(config, "image_size", None)
    if size is None:
        raise UserError(f"{option}: {config.model_type} is not an image encoder (no image_size in its configuration)")
    size = int(size[0] if isinstance(size, list | tuple) else size)
    facts = _processor_facts(location)
    return Preprocessing(
        image_size=size,
        mean=tuple(facts.get("image_mean") or DEFAULT_MEAN_STD),
        std=tuple(facts.get("image_std") or DEFAULT_MEAN_STD),
    )


def _processor_facts(location: str) -> dict[str, Any]:
    """Mean and standard deviation from the image processor's file; a folder without one gets ViT's defaults."""
    path = Path(location) / "preprocessor_config.json"
    if Path(location).is_dir():
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    from transformers import ImageProcessingMixin

    try:
        return dict(ImageProcessingMixin.get_image_processor_dict(location)[0])
    except OSError:
        return {}


def load_model(source: Source) -> torch.nn.Module:
    """The transformers model in 32 bit, in eval mode, without its pooler.

    A 16-bit checkpoint would be loaded in 16 bit without the explicit dtype. Weights come from safetensors only.

    Raises:
        UserError: if the weights cannot be had.
    """
    import torch
    from transformers import AutoModel
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    if source.random:
        model = AutoModel.from_config(source.config, dtype=torch.float32, trust_remote_code=False)
    else:
        option = f"--{source.modality}-model {source.name}"
        try:
            model, info = AutoModel.from_pretrained(
                source.location,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
        except Exception as error:
            raise UserError(f"{option}: weights cannot be had: {_first_line(error)}") from error
        # transformers draws what a checkpoint lacks at random and goes on; a benchmark must not.
        missing = sorted(key for key in info["missing_keys"] if not key.startswith("pooler."))
        if missing:
            raise UserError(f"{option}: {len(missing)} weights are not in the checkpoint, e.g. {missing[0]}")
    if getattr(model, "pooler", None) is not None:
        # The pooler is not used, would get no gradient, and must not be counted.
        model.pooler = None
    return model.eval()
