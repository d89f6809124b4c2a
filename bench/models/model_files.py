"""Checks of a model's name and folder before a library loads it or a hub is asked."""

from __future__ import annotations

import os
import re
from pathlib import Path

from bench.utils.errors import UserError

_HUB_ID = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]*/)?[A-Za-z0-9_][A-Za-z0-9_.-]*", re.ASCII)
_LONGEST_ID = 96
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.pkl")


def check_location(location: str, option: str) -> None:
    """Check that a location is a folder with a config.json, or could be the id of a model on a hub.

    Raises:
        UserError: the location is neither; the message names the option.
    """
    # os.path and not Path, which raises an error for names that are too long or contain a NUL.
    if os.path.isdir(location):
        if not os.path.isfile(os.path.join(location, "config.json")):
            raise UserError(f"{option}: {location} has no config.json")
    elif os.path.exists(location):
        raise UserError(f"{option}: is a file; name the folder that holds config.json and the weights")
    elif len(location) > _LONGEST_ID or not _HUB_ID.fullmatch(location):
        raise UserError(f"{option}: no such folder, and not a valid id of a model on the hub")


def check_weights(location: str, option: str) -> None:
    """Refuse a folder without safetensors weights: unpickling the other formats can run any code.

    torch's ``weights_only`` loads some pickles, by rules that change between its versions; converting once is safer.

    Raises:
        UserError: the folder has no safetensors; the message names the option.
    """
    folder = Path(location)
    if not folder.is_dir() or any(folder.glob("*.safetensors")):
        return
    pickled = sorted(path.name for pattern in PICKLED for path in folder.glob(pattern))
    if pickled:
        raise UserError(
            f"{option}: the weights are pickled ({pickled[0]}), and pickles are never loaded; if you trust the file, "
            "convert it to safetensors once, with from_pretrained() and save_pretrained() of transformers"
        )
    raise UserError(f"{option}: no weights (*.safetensors) in {location}; --weights random needs none")
