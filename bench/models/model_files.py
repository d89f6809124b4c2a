"""Checks of a model's name and folder before a library loads it or a hub is asked."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from safetensors import SafetensorError, safe_open

from bench.utils.errors import UserError

_HUB_ID = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]*/)?[A-Za-z0-9_][A-Za-z0-9_.-]*", re.ASCII)
_LONGEST_ID = 96
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.pkl")


def check_location(location: str, option: str) -> None:
    """Check that a location is a folder with a config.json, or could be the id of a model on a hub.

    Raises:
        UserError: the location is neither; the message names the option.
    """
    # os.path and not Path, which raises an error for names that are too long or contain a NUL.
    if os.path.isdir(location):
        if not os.path.isfile(os.path.join(location, "config.json")):
            if os.path.isfile(os.path.join(location, "adapter_config.json")):
                raise UserError(f"{option}: {location} holds an adapter and no model; merge it into its base model")
            raise UserError(f"{option}: {location} has no config.json")
    elif os.path.exists(location):
        raise UserError(f"{option}: is a file; name the folder that holds config.json and the weights")
    elif len(location) > _LONGEST_ID or not _HUB_ID.fullmatch(location):
        raise UserError(f"{option}: no such folder, and not a valid id of a model on the hub")


def check_weights(location: str, option: str) -> None:
    """Refuse a folder without safetensors weights that can be read: unpickling the other formats can run any code.

    torch's ``weights_only`` loads some pickles, by rules that change between its versions; converting once is safer.

    Raises:
        UserError: the folder has no such file, or a damaged one; the message names the option.
    """
    folder = Path(location)
    if not folder.is_dir():
        return
    for name in _weight_files(folder, option):
        try:
            with safe_open(folder / name, framework="pt"):
                pass
        except (OSError, SafetensorError) as error:
            raise UserError(f"{option}: {name} cannot be read as safetensors: {error}") from error


def _weight_files(folder: Path, option: str) -> list[str]:
    """Names of the files that transformers loads weights from."""
    if (folder / WEIGHTS).is_file() and (folder / INDEX).is_file():
        raise UserError(f"{option}: {folder} has both {WEIGHTS} and {INDEX}; remove the one that is out of date")
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS]
    if (folder / INDEX).is_file():
        try:
            return sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise UserError(f"{option}: {INDEX} is not a valid index of weights ({type(error).__name__})") from error
    if others := sorted(path.name for path in folder.glob("*.safetensors")):
        raise UserError(f"{option}: no {WEIGHTS} in {folder}, only {others[0]}; rename the file that holds the weights")
    pickled = sorted(path.name for pattern in PICKLED for path in folder.glob(pattern))
    if pickled:
        raise UserError(
            f"{option}: the weights are pickled ({pickled[0]}), and pickles are never loaded; if you trust the file, "
            "convert it to safetensors once, with from_pretrained() and save_pretrained() of transformers"
        )
    raise UserError(f"{option}: no weights (*.safetensors) in {folder}; --weights random needs none")
