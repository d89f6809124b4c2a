"""Synthetic run folders, with figures from formulas instead of measurements."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.records.columns import CONTRACT, FURTHER

# method: HR@10, seconds of a step, trainable parameters, MiB at the peak, shares of data, backbone, forward, backward,
# optimizer in a step.
METHODS: dict[str, tuple[float, float, int, float, tuple[float, ...]]] = {
    "fft": (0.262, 0.450, 1_290_000, 410.0, (0.02, 0.30, 0.06, 0.56, 0.06)),
    "frozen": (0.185, 0.170, 16_900, 95.0, (0.04, 0.80, 0.08, 0.06, 0.02)),
    "bitfit": (0.190, 0.370, 33_400, 330.0, (0.02, 0.36, 0.07, 0.53, 0.02)),
    "adapter": (0.248, 0.420, 72_700, 372.0, (0.02, 0.38, 0.07, 0.50, 0.03)),
    "lora": (0.272, 0.400, 66_048, 368.0, (0.02, 0.37, 0.07, 0.51, 0.03)),
    "prefix": (0.182, 0.390, 41_472, 355.0, (0.02, 0.39, 0.07, 0.49, 0.03)),
    "iisan": (0.226, 0.215, 98_000, 120.0, (0.03, 0.64, 0.14, 0.16, 0.03)),
    "iisan-cached": (0.226, 0.045, 98_000, 31.0, (0.10, 0.0, 0.40, 0.38, 0.12)),
}
UNKNOWN = (0.2, 0.3, 50_000, 200.0, (0.1, 0.3, 0.2, 0.3, 0.1))
STEPS = 47
EPOCHS = 3
USERS = 1500
CACHE_BYTES = 1_254_400


def make_run(
    path: Path,
    methods: Sequence[str] = tuple(METHODS),
    seeds: Sequence[int] = (0, 1),
    changes: Mapping[str, Mapping[str, Any]] | None = None,
    ranks: bool = False,
    **everywhere: Any,
) -> Path:
    """Write a run folder of `methods` x `seeds`.

    Args:
        path: The folder to make.
        methods: Names; one that is not in `METHODS` gets figures of its own.
        seeds: One cell each per method.
        ranks: Also write a rank per user, and let the accuracy of the row be that of the ranks.
        changes: Per method, columns of the row to overwrite; a status other than ok also takes all figures away.
        everywhere: Columns of the row to overwrite in all cells.
    """
    path.mkdir(parents=True)
    names = "\n".join(f"[[methods]]\nname = {json.dumps(name)}" for name in methods)
    settings = f"[budget]\nepochs = {EPOCHS}\nbatch_size = 32\n[training]\ndropout = 0.1\n"
    (path / "matrix.toml").write_text(f'name = "synthetic"\n{names}\n{settings}', encoding="utf-8")
    write_json(path / "environment.json", environment())
    write_json(path / "dataset.json", dataset())
    for method in methods:
        for seed in seeds:
            record = make_record(method, seed, {**everywhere, **(changes or {}).get(method, {})})
            folder = path / "cells" / record["row"]["cell_id"]
            folder.mkdir(parents=True)
            if ranks and record["row"]["status"] == "ok":
                add_ranks(folder, record)
            write_json(folder / "record.json", record)
            if record["row"]["status"] == "ok":
                (folder / "steps.csv").write_text(steps_csv(method, seed), encoding="utf-8")
    return path


def add_ranks(folder: Path, record: dict[str, Any], users: int = USERS) -> None:
    """Write ranks.csv with about the HR@10 of the record, and put the exact HR@10 into the record."""
    row = record["row"]
    test = ranks_of(row["method"], row["seed"], row["hr@10"], users)
    valid = ranks_of(row["method"], row["seed"] + 100, row["valid_hr@10"], users)
    lines = [f"user{place:05d},{v},{t}" for place, (v, t) in enumerate(zip(valid, test, strict=True))]
    (folder / "ranks.csv").write_text("\n".join(["user,valid_rank,test_rank", *lines]) + "\n", encoding="utf-8")
    for split, found in (("", test), ("valid_", valid)):
        row[f"{split}hr@10"] = sum(rank <= 10 for rank in found.tolist()) / users
        row[f"{split}ndcg@10"] = sum(1 / math.log2(rank + 1) for rank in found.tolist() if rank <= 10) / users


def ranks_of(method: str, seed: int, accuracy: float, users: int) -> NDArray[np.int64]:
    """Ranks of which a share of about `accuracy` is at most 10; easy users are the same for all methods."""
    easy = np.random.default_rng(7).random(users)
    own = np.random.default_rng([seed, *method.encode()])
    drawn = np.where(own.random(users) < 0.6, easy, own.random(users))
    return np.ceil(10 * np.maximum(drawn, 1e-9) / accuracy).astype(np.int64)


def set_machine(run: Path, cpu: str) -> None:
    """Change the CPU in the records of a run and of all its cells."""
    changed = {**environment(), "cpu": cpu}
    write_json(run / "environment.json", changed)
    for path in (run / "cells").glob("*/record.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        write_json(path, {**record, "environment": changed})


def write_json(path: Path, value: object) -> None:
    """Write a value to a JSON file."""
    path.write_text(json.dumps(value), encoding="utf-8")


def environment() -> dict[str, Any]:
    """Content of environment.json."""
    return {
        "python": "3.11.0",
        "torch": "2.9.0",
        "platform": "Linux-synthetic",
        "cpu": "Made-up CPU",
        "cores": 2,
        "threads": 2,
        "gpu": None,
    }


def dataset() -> dict[str, Any]:
    """Content of dataset.json."""
    return {
        "name": "shop",
        "digest": "0123abcd",
        "users": USERS,
        "items": 700,
        "interactions": 13_451,
        "train_interactions": 10_451,
        "dropped": {"users with fewer than 5 interactions": 12},
        "notes": [],
        "unknown_token_share": 0.0,
        "references": {
            "random": {"hr@10": 0.0145, "ndcg@10": 0.0066},
            "popularity": {"hr@10": 0.094, "ndcg@10": 0.043},
            "bayes": {"hr@10": 0.509, "ndcg@10": 0.316},
            "oracle": {"hr@10": 0.571, "ndcg@10": 0.375},
        },
        "command": "python run_bench.py run --preset default",
    }


def make_record(method: str, seed: int, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Content of record.json of one cell."""
    accuracy, step, params, mebibytes, shares = METHODS.get(method, UNKNOWN)
    draw = random.Random(f"{method} {seed}")
    accuracy += draw.gauss(0, 0.006)
    step *= 1 + draw.gauss(0, 0.02)
    ok = changes.get("status", "ok") == "ok"
    figures = {
        "epochs": EPOCHS,
        "steps": STEPS * EPOCHS,
        "hr@10": round(accuracy, 4),
        "ndcg@10": round(0.55 * accuracy, 4),
        "valid_hr@10": round(1.03 * accuracy, 4),
        "best_epoch": EPOCHS,
        "step_seconds_median": step,
        "epoch_seconds": step * STEPS,
        "train_seconds": step * STEPS * EPOCHS,
        "setup_seconds": 2.5,
        "trainable_params": params,
        "total_params": 1_273_000 + params,
        "peak_memory_bytes": round(mebibytes * 2**20),
        "memory_source": "account",
        "peak_rss_bytes": round((mebibytes + 400) * 2**20),
        "flops_forward": 4_000_000_000 + params,
        "flops_backward": 8_000_000_000 + params,
        "valid_ndcg@10": round(0.57 * accuracy, 4),
        "unique_items_per_step": 214.5,
    }
    row: dict[str, Any] = dict.fromkeys((*CONTRACT, *FURTHER))
    row |= {
        "method": method,
        "dataset": "shop",
        "modality": "text+image",
        "text_model": "shop-absent",
        "image_model": "shop-absent",
        "seed": seed,
        "status": "ok",
        "device": "cpu",
        "precision": "fp32",
        "batch_size": 32,
        "weights": "pretrained",
        "dataset_seed": 0,
    }
    row |= {**(figures if ok else {}), **changes}
    if ok and method == "iisan-cached":
        row |= {"cache_seconds": 2.0 + seed, "cache_bytes": CACHE_BYTES + 256}
    name = method.replace("/", "-")
    row["cell_id"] = f"{name}--{row['text_model']}--{row['modality']}--s{seed}--{draw.randrange(16**6):06x}"
    if not ok:  # the record of a cell that died has no budget, no environment and no groups
        return {
            "schema": 1,
            "row": row,
            "method": {"name": method, "type": method, "options": {}},
            "curve": [],
            "warnings": [],
            "traceback": "Traceback (most recent call last): ...",
        }
    return {
        "schema": 1,
        "row": row,
        "method": {
            "name": method,
            "type": method,
            "options": {},
            "groups": [{"name": "head", "lr": 0.005, "parameters": params}],
            "adapted": {"text": 12, "image": 12},
        },
        "budget": {"epochs": EPOCHS, "steps": None, "batch_size": 32},
        "training": {"dropout": 0.1},
        "curve": _curve(accuracy, step),
        "steps": {
            "count": STEPS * EPOCHS,
            "median": step,
            "q25": 0.9 * step,
            "q75": 1.2 * step,
            "p95": 1.5 * step,
            "cv": 0.07,
            "phases": dict(zip(("data", "backbone", "forward", "backward", "optimizer"), shares, strict=True)),
        },
        "phase_seconds": {"assemble": 2.5, "train": step * STEPS * EPOCHS + 0.5, "test": 0.25, "save weights": 1e-6},
        "memory": _account(round(mebibytes * 2**20), params) if mebibytes else None,
        "nvml": None,
        "plan": _plan(row, _account(round(mebibytes * 2**20), params)) if mebibytes else None,
        "compute": {
            "items": 214,
            "operators_per_step": 390,
            "flops_forward": 3_000_000_000,
            "flops_backward": 6_000_000_000,
            "step_seconds": step,
            "model_flops_per_second": 9_000_000_000 / step,
        },
        "cache": _cache(row),
        "environment": environment(),
        "gates": {},
        "batch_digest": f"digest of seed {seed}",
        "warnings": [],
        "traceback": "",
    }


def _account(peak: int, params: int) -> dict[str, int]:
    """Account of memory: a synthetic split of the peak."""
    weights = 4 * (params if params == METHODS["iisan-cached"][2] else 1_273_000 + params)
    parts = {"parameters": weights, "gradients": 4 * params, "optimizer": 8 * params, "cache": 0}
    activations = (peak - sum(parts.values())) // 2
    return {"peak_bytes": peak, **parts, "activations": activations, "rest": peak - sum(parts.values()) - activations}


def _plan(row: Mapping[str, Any], account: dict[str, int]) -> dict[str, Any]:
    """Plan that agrees with the measurement."""
    peak = account.pop("peak_bytes")
    same = {key: row[key] for key in ("trainable_params", "total_params", "flops_forward", "flops_backward")}
    return {**same, "peak_memory_bytes": peak, **account, "cache_bytes": CACHE_BYTES if row["cache_bytes"] else None}


def _cache(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """Cost of the cache of a cached method: two files, and the seconds of building them."""
    if not row["cache_bytes"]:
        return None
    return {"seconds": row["cache_seconds"], "bytes": row["cache_bytes"], "bytes_per_step": 113_000.5, "reused": True}


def _curve(accuracy: float, step: float) -> list[dict[str, Any]]:
    return [
        {
            "epoch": epoch,
            "step": STEPS * epoch,
            "train_seconds": STEPS * epoch * step,
            "loss": 5.0 - epoch,
            "valid_hr@10": 1.03 * accuracy * share,
            "valid_ndcg@10": 0.57 * accuracy * share,
        }
        for epoch, share in zip(range(1, EPOCHS + 1), (0.45, 0.8, 1.0), strict=True)
    ]


def steps_csv(method: str, seed: int) -> str:
    """Write a row per step, with a long tail as in real step times."""
    _, step, _, _, shares = METHODS.get(method, UNKNOWN)
    draw = random.Random(f"steps {method} {seed}")
    lines = ["epoch,step,seconds,data,transfer,backbone,forward,backward,optimizer,loss"]
    for place in range(STEPS * EPOCHS):
        seconds = step * draw.lognormvariate(0, 0.06) * (1.5 if draw.random() < 0.02 else 1)
        data, *rest = (f"{share * seconds:.9f}" if share else "" for share in shares)
        phases = ",".join([data, "", *rest])  # the transfer was not measured
        lines.append(f"{place // STEPS + 1},{place + 1},{seconds:.9f},{phases},{5 - place / 100:.3f}")
    return "\n".join(lines) + "\n"
