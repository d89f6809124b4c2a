"""Content of a model's folder: its place in the local hub cache, and digests of the files that decide its results."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.utils.errors import UserError
from bench.utils.files import digest_of, file_digest

SAFETENSORS = "*.safetensors"
# Files of other formats and documents: nothing here reads them, so that they decide no state and no token.
_UNREAD = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".pkl", ".onnx", ".gguf", ".ot", ".md", ".png", ".jpg")
# What is fetched of a model on a hub before its weights are needed.
_SMALL_FILES = ("*.json", "*.txt", "*.model", "*.py", "*.tiktoken", "*.vocab", "*.bpe", "*.codes", "*.spm", "*.jinja")
_NOT_FETCHED = ("onnx/*", "openvino/*")


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
