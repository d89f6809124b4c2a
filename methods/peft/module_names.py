"""Check that every module name in a tuner's options acts in an encoder; peft ignores names that match nothing.

peft adapts what some names match and drops the others in silence: ``target_modules = ["query", "q_proj"]`` adapts a
BERT and a ViT, but ``["query", "q_proj", "v_proj"]`` adapts one map per layer in BERT and two in ViT.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from bench.utils.errors import UserError

HINT = "target = [...] names roles, which are found in every encoder"


def check_names(options: Mapping[str, Any], config: Any, model: nn.Module) -> None:
    """Check the options of a tuner that name modules or layers, before the tuner is put into the encoder.

    Args:
        options: options that the user has set.
        config: peft's configuration with these options.

    Raises:
        UserError: a name acts on nothing in this encoder; the message lists these names by option.
    """
    idle = idle_names(options, config, model)
    if not idle:
        return
    listed = "; ".join(f"{option}: {', '.join(map(str, names))}" for option, names in idle.items())
    hint = f"; {HINT}" if "target_modules" in idle else ""
    raise UserError(f"option peft: names that match nothing in {type(model).__name__}: {listed}{hint}")


def idle_names(options: Mapping[str, Any], config: Any, model: nn.Module) -> dict[str, list[Any]]:
    """Option -> its names (layer numbers, patterns) that act on nothing in the encoder."""
    names = [name for name, _ in model.named_modules() if name]
    targeted = _targeted(config, names)
    found: dict[str, list[Any]] = {}
    for option, value in options.items():
        if not value and value != 0:
            continue
        entries = _entries(value)
        match option:
            case "target_modules" | "feedforward_modules":
                found[option] = _idle(entries, targeted, _as_target(value))
            case "exclude_modules":
                included = copy.copy(config)
                included.exclude_modules = None
                found[option] = _idle(entries, _targeted(included, names), _as_target(value))
            case "modules_to_save" | "trainable_token_indices" if not isinstance(value, int) and _named(entries):
                found[option] = _idle(entries, names, str.endswith)
            case "target_parameters":
                found[option] = _idle(entries, [name for name, _ in model.named_parameters()], _is_suffix)
            case "layers_pattern":
                found[option] = _idle(entries, names, lambda name, entry: _search(name, rf"(^|\.){entry}\.\d+(\.|$)"))
            case "layers_to_transform":
                found[option] = _idle(entries, targeted, lambda name, entry: str(entry) in name.split("."))
            case _ if option.endswith("_pattern") and isinstance(value, Mapping):
                matches = _search if config.peft_type == "OSF" else _is_pattern
                found[option] = _idle(entries, targeted, matches)
    return {option: idle for option, idle in found.items() if idle}


def _entries(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple | set | Mapping) else [value]


def _named(entries: Sequence[Any]) -> bool:
    """False for token numbers, which peft takes for those of the input embeddings."""
    return all(isinstance(entry, str) for entry in entries)


def _targeted(config: Any, names: Iterable[str]) -> list[str]:
    """Names of the modules that peft adapts."""
    from peft.tuners.tuners_utils import check_target_module_exists

    if getattr(config, "target_modules", None) is None:
        return []
    if config.target_modules == "all-linear":
        return list(names)
    return [name for name in names if check_target_module_exists(config, name)]


def _idle(entries: Iterable[Any], names: Sequence[str], matches: Any) -> list[Any]:
    return [entry for entry in entries if not any(matches(name, entry) for name in names)]


def _as_target(value: Any) -> Any:
    """Rule by which peft matches a module's name: a pattern if the option is one string, else the name's end."""
    if value == "all-linear":
        return lambda name, entry: True
    return (lambda name, entry: re.fullmatch(entry, name)) if isinstance(value, str) else _is_suffix


def _is_suffix(name: str, entry: str) -> bool:
    return name == entry or name.endswith(f".{entry}")


def _is_pattern(name: str, entry: str) -> bool:
    return re.match(rf"(.*\.)?({entry})$", name) is not None


def _search(name: str, entry: str) -> bool:
    return re.search(entry, name) is not None
