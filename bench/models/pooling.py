"""Choice of the pooling: which token states make the vector of an item, and why."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.models import families
from bench.models.backbones import Source
from bench.models.families import Pooling
from bench.models.loading.folder_content import read_json
from bench.utils.errors import UserError

# Parameter names of the token that image encoders train to stand for the whole image.
CLASS_TOKENS = ("cls_token", "class_token", "class_embedding")
# Names of poolings in the files of sentence-transformers, and ours; None for those that are not supported.
_SENTENCE_POOLINGS: dict[str, Pooling | None] = {
    "cls": "cls", "cls_token": "cls", "mean": "mean", "mean_tokens": "mean", "lasttoken": "last-token",
    "max": None, "max_tokens": None, "mean_sqrt_len_tokens": None, "weightedmean": None, "weightedmean_tokens": None,
}  # fmt: skip


@dataclass(frozen=True)
class Choice:
    """A pooling, where it comes from in words, and whether the harness chose it ("auto")."""

    pooling: Pooling
    why: str
    chosen: bool = True


def choose_pooling(source: Source, model: Any) -> Choice:
    """Check the requested pooling against the encoder, and replace "auto".

    "auto" is what the folder says if it is one of sentence-transformers. Otherwise it is ``cls`` if the first token was
    trained to represent the whole item (BERT, ViT), ``last-token`` if attention is causal or the encoder was trained
    on text padded to its full length (SigLIP), and ``mean`` if no token stands for the item (Swin, ConvNeXt, SigLIP's
    vision tower, T5, decoders whose attention is not causal) or if the configuration asks for it (BEiT).

    Args:
        model: the encoder; its values do not matter, so that one on the meta device will do.

    Raises:
        UserError: the encoder does not support the pooling; the message names the option.
    """
    if source.modality == "image":
        return _of_image(source, model)
    config, requested, option = source.config, source.pooling, f"text_pooling {source.pooling}"
    causal = families.is_causal(config)
    if requested == "cls" and causal:
        name = type(model).__name__
        raise UserError(f"{option}: the first token of {name} attends to no other token; use last-token or mean")
    if requested != "auto":
        return Choice(requested, "option text_pooling", False)
    if (said := _of_folder(source)) is not None:
        return said
    kind = config.model_type
    if causal:
        return Choice("last-token", f"the attention of {kind} is causal")
    if kind in families.ALWAYS_PADDED:
        return Choice("last-token", f"{kind} is trained on text padded to its full length")
    if kind in families.LAST_TOKEN:
        return Choice("last-token", f"family {kind}")
    if kind in families.WITHOUT_CLS or families.is_decoder(config):
        return Choice("mean", f"{kind} trains no token to stand for a text")
    return Choice("cls", f"family {kind}")


def _of_image(source: Source, model: Any) -> Choice:
    has_class = any(key.rpartition(".")[2] in CLASS_TOKENS for key, _ in model.named_parameters())
    if source.pooling == "auto":
        if not has_class:
            return Choice("mean", "it has no class token")
        if getattr(model.config, "use_mean_pooling", False):
            return Choice("mean", "use_mean_pooling in config.json")
        return Choice("cls", "it has a class token")
    if source.pooling == "last-token" or (source.pooling == "cls" and not has_class):
        name = type(model).__name__
        raise UserError(f"image_pooling {source.pooling}: {name} has no class or last token; use mean")
    return Choice(source.pooling, "option image_pooling", False)


def _of_folder(source: Source) -> Choice | None:
    """Pooling that the files of sentence-transformers name; None if there are none."""
    folder = Path(source.location)
    if folder.name.startswith("0_") and not (folder / "modules.json").is_file():
        folder = folder.parent  # the model alone, in a folder beside that of its pooling
    listed, others = _modules(folder)
    if listed is None:
        return None
    where = f"{listed.parent.name}/{listed.name}"
    facts = read_json(listed)
    modes = [key.removeprefix("pooling_mode_") for key, value in facts.items() if value is True and "mode_" in key]
    if isinstance(facts.get("pooling_mode"), str):
        modes = [facts["pooling_mode"]]
    pooling = _SENTENCE_POOLINGS.get(modes[0]) if len(modes) == 1 else None
    if pooling is None:
        asked = " + ".join(modes) or "none"
        raise UserError(
            f"--text-model {source.name}: {where} asks for the pooling {asked}, which is not supported; "
            "set text_pooling under [[backbones]] to cls, mean or last-token"
        )
    if pooling == "cls" and families.is_causal(source.config):
        raise UserError(f"--text-model {source.name}: {where} asks for cls, but attention is causal; set text_pooling")
    settings = read_json(folder / "config_sentence_transformers.json")
    if prompt := (settings.get("prompts") or {}).get(settings.get("default_prompt_name")):
        others.append(f"prompt {str(prompt).strip()!r}")
    more = f"; {', '.join(others)} not applied" if others else ""
    return Choice(pooling, f"{where}{more}")


def _modules(folder: Path) -> tuple[Path | None, list[str]]:
    """Configuration of the pooling of a folder of sentence-transformers, and names of modules that are not applied."""
    path = folder / "modules.json"
    if not path.is_file():
        alone = folder / "1_Pooling" / "config.json"
        return (alone if alone.is_file() else None), []
    import json

    found, others = None, []
    entries = json.loads(path.read_text(encoding="utf-8"))
    for entry in entries if isinstance(entries, list) else ():
        kind = str(entry.get("type", "")).rpartition(".")[2]
        if kind == "Pooling":
            found = folder / str(entry.get("path", "")) / "config.json"
        elif kind not in ("Transformer", "Normalize"):
            others.append(str(entry.get("path") or kind))
    return (found if found is not None and found.is_file() else None), others
