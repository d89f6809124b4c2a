"""Text and image encoders: built in, from a folder, from the hub, or from a configuration with random weights."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.models import families
from bench.models.config import CONFIGURATIONS, PRETRAINED, Modality
from bench.models.families import Pooling
from bench.models.model_files import check_place, check_weights
from bench.utils.errors import UserError
from bench.utils.text import printable

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

BUILTIN_DIR = Path(__file__).parent / "builtin"
DEFAULT_MEAN_STD = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Preprocessing:
    """How items become tensors for one encoder.

    Attributes:
        tokenizer: folder or hub id of the tokenizer, or None where words are hashed (configuration only).
        vocab_size: of the encoder, for hashing.
        positions: most tokens that the encoder takes; None where it has no limit.
        pad_to: every title is padded to so many tokens, and the padding counts as text (SigLIP); None: it does not.
        image_size: height and width in pixels; None for text.
        mean, std: per channel, on pixels scaled to 0..1.

    Raises:
        ValueError: numbers that no picture can be prepared with.
    """

    tokenizer: str | None = None
    vocab_size: int = 0
    positions: int | None = None
    pad_to: int | None = None
    image_size: int | None = None
    mean: tuple[float, ...] = DEFAULT_MEAN_STD
    std: tuple[float, ...] = DEFAULT_MEAN_STD

    def __post_init__(self) -> None:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != 3 or not all(isinstance(value, int | float) and abs(value) < 1e6 for value in values):
                raise ValueError(f"the {name} of a picture must be three numbers, got {values}")
        if min(self.std) <= 0:
            raise ValueError(f"the std of a picture must be above 0, got {self.std}")
        if self.image_size is not None and self.image_size < 1:
            raise ValueError(f"pictures of {self.image_size} pixels")

    def digest(self) -> str:
        """Names the preprocessing inside cache keys."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Source:
    """Where an encoder comes from: everything that is known without its weights.

    Attributes:
        config: of the encoder itself; of the tower where the model has two.
        whole: of what lies at ``location``.
        pooling: as asked for; "auto" is settled when the modules are there, see ``pooling.choose``.
        trust_remote_code: whether Python files that lie at ``location`` may run.
    """

    name: str
    modality: Modality
    location: str
    random: bool
    whole: PretrainedConfig = field(repr=False)
    preprocessing: Preprocessing
    pooling: Pooling = "auto"
    trust_remote_code: bool = False

    @property
    def config(self) -> PretrainedConfig:
        """Of the encoder itself."""
        return families.part(self.whole, self.modality)

    @property
    def width(self) -> int:
        """Size of an item's vector: that of the last and widest layer."""
        return max(self.widths)

    @property
    def widths(self) -> tuple[int, ...]:
        """Size of a token after layers 0 to depth."""
        return families.widths(self.config)

    @property
    def depth(self) -> int:
        """Number of layers."""
        return families.depth(self.config)


def builtin_folder(name: str, modality: Modality) -> Path:
    """Folder of a shipped backbone."""
    return BUILTIN_DIR / f"{modality}-{name.removeprefix('shop-')}"


def locate(
    name: str,
    modality: Modality,
    weights: str = "pretrained",
    pooling: Pooling = "auto",
    *,
    trust_remote_code: bool = False,
) -> Source:
    """Resolves a built-in name, a folder or a hub id to a source.

    Python files that come with a model run only with ``trust_remote_code``.

    Raises:
        UserError: no such model, wrong modality, unreadable configuration, or weights that do not exist.
    """
    option = f"--{modality}-model {printable(name)}"
    if name in CONFIGURATIONS:
        return _from_configuration(name, modality, weights, pooling, option)
    location = str(builtin_folder(name, modality)) if name in PRETRAINED else name
    whole = _read_config(location, option, trust_remote_code)
    try:
        preprocessing = _preprocessing(location, families.part(whole, modality), modality, option)
        source = Source(name, modality, location, weights == "random", whole, preprocessing, pooling, trust_remote_code)
        if source.width < 1 or source.depth < 1:
            raise ValueError(f"{source.depth} layers of {source.width}")
    except (ValueError, TypeError, LookupError, AttributeError, OSError, RecursionError) as error:
        raise UserError(f"{option}: its configuration makes no sense: {_first_line(error)}") from error
    if weights != "random":
        check_weights(location, option)
    return source


def _from_configuration(name: str, modality: Modality, weights: str, pooling: Pooling, option: str) -> Source:
    from transformers import AutoConfig

    kinds, family = CONFIGURATIONS[name]
    if modality not in kinds:
        raise UserError(f"{option}: {name} is {'an' if kinds[0] == 'image' else 'a'} {kinds[0]} encoder")
    if weights != "random":
        raise UserError(f"{option}: only its configuration is built in; add --weights random, or name a folder or id")
    whole = AutoConfig.for_model(family)
    config = families.part(whole, modality)
    if modality == "text":
        pre = Preprocessing(vocab_size=int(config.vocab_size), positions=families.positions(config))
    else:
        pre = Preprocessing(image_size=int(config.image_size))
    return Source(name, modality, name, True, whole, pre, pooling)


def _read_config(location: str, option: str, trust_remote_code: bool) -> PretrainedConfig:
    from transformers import AutoConfig

    # A hub that cannot be reached is told in one line below, not in a line per attempt.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    check_place(location, option)
    try:
        return AutoConfig.from_pretrained(location, trust_remote_code=trust_remote_code)
    except Exception as error:
        raise UserError(f"{option}: cannot be had: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    if "trust_remote_code" in str(error):  # what transformers says is meant for programmers
        return "it brings Python code of its own, which runs only with --trust-remote-code"
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
        return Preprocessing(location, int(config.vocab_size), positions, pad_to)
    if size is None:
        raise UserError(f"{option}: {config.model_type} is not an image encoder (no image_size in its configuration)")
    facts = _processor_facts(location)
    if config.model_type in families.ANY_SIZE:
        size = facts.get("crop_size") or facts.get("size") or size
    normalised = facts.get("do_normalize", True)
    return Preprocessing(
        image_size=_side(size),
        mean=tuple(facts.get("image_mean") or DEFAULT_MEAN_STD) if normalised else (0.0, 0.0, 0.0),
        std=tuple(facts.get("image_std") or DEFAULT_MEAN_STD) if normalised else (1.0, 1.0, 1.0),
    )


def _side(size: Any) -> int:
    """Height of a picture as configurations and processors write it: a number, a pair, or a table."""
    if isinstance(size, dict):
        size = size.get("height") or size.get("shortest_edge")
    return int(size[0] if isinstance(size, list | tuple) else size)


def _processor_facts(location: str) -> dict[str, Any]:
    """What the image processor's file says; a folder without one gets ViT's defaults."""
    folder = Path(location)
    if folder.is_dir():
        for name, key in (("preprocessor_config.json", None), ("processor_config.json", "image_processor")):
            if (folder / name).is_file():
                facts: dict[str, Any] = json.loads((folder / name).read_text(encoding="utf-8"))
                return facts if key is None else facts.get(key, {})
        return {}
    from transformers import ImageProcessingMixin

    try:
        return dict(ImageProcessingMixin.get_image_processor_dict(location)[0])
    except OSError:
        return {}


def load_model(source: Source) -> torch.nn.Module:
    """The transformers model in 32 bit, in eval mode, without poolers and heads; one tower where there are two.

    A 16-bit checkpoint would be loaded in 16 bit without the explicit dtype. Weights come from safetensors only.

    Raises:
        UserError: if the weights cannot be had.
    """
    import transformers
    from transformers.utils import logging as transformers_logging

    from bench.models.structure import drop_idle

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    cls = getattr(transformers, families.CLASSES.get(source.whole.model_type, "AutoModel"))
    whole, missing = (_drawn(cls, source), []) if source.random else _pretrained(cls, source)
    prefix, model = _tower(whole, source)
    drop_idle(model)
    # transformers draws what a checkpoint lacks at random and goes on; a benchmark must not.
    used = {f"{prefix}{name}" for name in model.state_dict()}
    lost = sorted(used.intersection(missing))
    if lost:
        option = f"--{source.modality}-model {source.name}"
        raise UserError(f"{option}: {len(lost)} weights are not in the checkpoint, e.g. {lost[0]}")
    if getattr(model.config, "use_cache", False):
        model.config.use_cache = False  # keys and values of decoders: nothing is generated here
    return model.eval()


def _drawn(cls: Any, source: Source) -> Any:
    import torch

    if cls.__name__ == "AutoModel":
        return cls.from_config(source.whole, dtype=torch.float32, trust_remote_code=source.trust_remote_code)
    return cls(source.whole).float()


def _pretrained(cls: Any, source: Source) -> tuple[Any, list[str]]:
    """The model and the names of what its checkpoint lacks."""
    import torch

    try:
        model, info = cls.from_pretrained(
            source.location,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=source.trust_remote_code,
            output_loading_info=True,
        )
    except Exception as error:
        option = f"--{source.modality}-model {source.name}"
        raise UserError(f"{option}: weights cannot be had: {_first_line(error)}") from error
    return model, list(info["missing_keys"])


def _tower(whole: Any, source: Source) -> tuple[str, Any]:
    """The encoder of the modality inside a model of two, and its place there as a prefix of names."""
    if source.config is source.whole:
        return "", whole
    for name, module in whole.named_modules():
        if name and getattr(getattr(module, "config", None), "model_type", None) == source.config.model_type:
            return f"{name}.", module
    option = f"--{source.modality}-model {source.name}"
    raise UserError(f"{option}: no {source.modality} encoder found in {type(whole).__name__}")
