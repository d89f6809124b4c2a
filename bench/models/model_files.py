"""A model's folder: checks before a library loads it, its place in the local hub cache, and digests of its content."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from bench.utils.errors import UserError
from bench.utils.files import digest_of, file_digest

_HUB_ID = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]*/)?[A-Za-z0-9_][A-Za-z0-9_.-]*", re.ASCII)
_LONGEST_ID = 96
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.pkl")
SAFETENSORS = "*.safetensors"
# Files of other formats and documents: nothing here reads them, so that they decide no state and no token.
_UNREAD = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".pkl", ".onnx", ".gguf", ".ot", ".md", ".png", ".jpg")
# What is fetched of a model on a hub before its weights are needed.
_SMALL_FILES = ("*.json", "*.txt", "*.model", "*.py", "*.tiktoken", "*.vocab", "*.bpe", "*.codes", "*.spm", "*.jinja")
_NOT_FETCHED = ("onnx/*", "openvino/*")


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
            inner = [path.parent.name for path in sorted(Path(location).glob("0_*/config.json"))]
            hint = f"; its encoder is in {inner[0]}: name that folder" if inner else ""
            raise UserError(f"{option}: {location} has no config.json{hint}")
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


def local_folder(location: str) -> Path:
    """Folder of a model: the location itself, or the snapshot of a hub id without weights, fetched if it is allowed.

    The name of a snapshot's folder is the revision, so that all later reads are of one revision.

    Raises:
        OSError, ValueError: the hub cannot be reached, or has no such model.
    """
    if os.path.isdir(location):
        return Path(location)
    return _snapshot(location, _SMALL_FILES)


def fetch_weights(name: str, folder: Path) -> None:
    """Fetch the safetensors of a model on a hub into the snapshot that :func:`local_folder` gave.

    A folder of the user's own is left as it is.
    """
    if not os.path.isdir(name) and folder.parent.name == "snapshots" and not any(folder.glob(SAFETENSORS)):
        _snapshot(name, (*_SMALL_FILES, SAFETENSORS), folder.name)


def _snapshot(name: str, patterns: tuple[str, ...], revision: str | None = None) -> Path:
    from huggingface_hub import snapshot_download

    fetched = snapshot_download(
        name, revision=revision, allow_patterns=list(patterns), ignore_patterns=list(_NOT_FETCHED)
    )
    return Path(fetched)


def files_digest(folder: Path) -> str:
    """Digest of the content of every file in a model's folder but the weights, wherever the folder lies.

    It covers configuration, tokenizer, processor, the modules of sentence-transformers, and Python files, also those
    of another model on the hub that the configuration names.
    """
    parts = [(path.relative_to(folder).as_posix(), file_digest(path)) for path in sorted(_deciding_files(folder))]
    foreign = [(name, files_digest(_snapshot(name, ("*.py",)))) for name in sorted(_foreign_code(folder))]
    return digest_of("model-files-1", parts, foreign)


def _deciding_files(folder: Path) -> Iterator[Path]:
    modules = (path for module in folder.glob("[0-9]*_*") for path in module.glob("*.json"))
    code = (path for path in folder.glob("*/**/*.py") if not path.relative_to(folder).parts[0].startswith("."))
    for path in (*folder.iterdir(), *modules, *code):
        if path.is_file() and not path.name.startswith(".") and path.suffix.lower() not in (*_UNREAD, ".safetensors"):
            yield path


def _foreign_code(folder: Path) -> set[str]:
    """Ids of models on a hub whose Python files a configuration names: an entry "id--module.Class" of ``auto_map``."""
    found = set()
    for name in ("config.json", "tokenizer_config.json"):
        entries = read_json(folder / name).get("auto_map")
        for entry in entries.values() if isinstance(entries, dict) else ():
            for reference in entry if isinstance(entry, list) else [entry]:
                if isinstance(reference, str) and "--" in reference:
                    found.add(reference.partition("--")[0])
    return found


def read_json(path: Path) -> dict[str, Any]:
    """Content of a JSON file that holds an object; empty if it is absent or holds something else."""
    if not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else {}


def weights_digest(folder: Path) -> str:
    """Digest of the content of all safetensors files in a folder.

    Raises:
        UserError: the folder has none.
    """
    files = sorted(folder.glob(SAFETENSORS))
    if not files:
        raise UserError(f"model {folder}: no .safetensors weights")
    return digest_of([(path.name, file_digest(path)) for path in files])
