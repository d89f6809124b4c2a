"""Folders as sentence-transformers saves them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

BERT_POOLING = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": False}


def sentence_folder(plain: Path, folder: Path, pooling: dict[str, Any], *more: str) -> Path:
    """A folder as sentence-transformers saves it: the model at its root, then the pooling, then ``more``."""
    shutil.copytree(plain, folder)
    kinds = ["Transformer", "Pooling", *more]
    modules = [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 24, **pooling}))
    return folder
