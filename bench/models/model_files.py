"""What can be said about a model by its name and folder alone, before a library or a hub is asked."""

from __future__ import annotations

import os
import re
from pathlib import Path

from bench.utils.errors import UserError

_HUB_ID = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]*/)?[A-Za-z0-9_][A-Za-z0-9_.-]*", re.ASCII)
_LONGEST_ID = 96
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.pkl")


def check_place(location: str, option: str) -> None:
    """Tell a folder that is not there from the id of a model on a hub, and a model's folder from any other.

    Raises:
        UserError: names the option.
    """
    # os.path and not Path: the latter raises for names that are too long or hold a NUL.
    if os.path.isdir(location):
        if not os.path.isfile(os.path.join(location, "config.json")):
            raise UserError(f"{option}: {location} has no config.json")
    elif os.path.exists(location):
        raise UserError(f"{option}: is a file; the folder with config.json and weights is needed")
    elif len(location) > _LONGEST_ID or not _HUB_ID.fullmatch(location):
        raise UserError(f"{option}: no such folder, and no id of a model on the hub")


def check_weights(location: str, option: str) -> None:
    """Refuse a folder whose weights would have to be unpickled: a pickle can run any code.

    torch's ``weights_only`` loads some of them, by rules that change between its versions; converting once is surer.

    Raises:
        UserError: the folder has no safetensors.
    """
    folder = Path(location)
    if not folder.is_dir() or any(folder.glob("*.safetensors")):
        return
    pickled = sorted(path.name for pattern in PICKLED for path in folder.glob(pattern))
    if pickled:
        raise UserError(
            f"{option}: its weights are {pickled[0]}, and nothing is unpickled here; if you trust the file, make "
            "safetensors of it once, by from_pretrained() and save_pretrained() of transformers"
        )
    raise UserError(f"{option}: no weights (*.safetensors) in {location}; --weights random goes without")
