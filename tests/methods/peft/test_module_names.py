"""Names in a tuner's options that act on nothing in one of the encoders are refused, whichever option names them."""

from pathlib import Path
from typing import Any

import pytest

import run_bench
from bench.config.matrix import parse, to_toml
from bench.utils.errors import UserError
from methods.peft.tuner import Tuner
from tests.helpers import encoder
from tests.tiny import matrix

Folders = dict[str, Path]
BERT = {"target_modules": ["query", "value"]}


def adapt(peft: dict[str, Any], folder: Path, modality: str) -> int:
    e = encoder(folder, modality)
    e.requires_grad_(False)
    return Tuner(peft={"type": "LORA", **peft}).adapt(e).modules


@pytest.mark.parametrize(
    ("peft", "idle"),
    [
        ({"target_modules": ["query", "q_proj", "v_proj"]}, "target_modules: q_proj, v_proj"),
        ({"target_modules": ["nothing"]}, "target_modules: nothing"),
        ({"target_modules": "query"}, "target_modules: query"),  # one string is a pattern for the whole name
        ({**BERT, "modules_to_save": ["classifier"]}, "modules_to_save: classifier"),
        ({**BERT, "modules_to_save": ["pooler", "LayerNorm"]}, "modules_to_save: pooler"),
        ({"target": "query", "modules_to_save": ["classifier"]}, "modules_to_save: classifier"),
        ({**BERT, "exclude_modules": ["key"]}, "exclude_modules: key"),
        ({**BERT, "exclude_modules": r".*\.9\..*"}, r"exclude_modules: .*\.9\..*"),
        ({**BERT, "rank_pattern": {"query": 2, "q_proj": 2}}, "rank_pattern: q_proj"),
        ({**BERT, "alpha_pattern": {"layer.7.attention.self.query": 2}}, "alpha_pattern: layer.7"),
        ({"target": "query", "rank_pattern": {"value": 2}}, "rank_pattern: value"),
        ({**BERT, "layers_to_transform": [0, 9]}, "layers_to_transform: 9"),
        ({**BERT, "layers_to_transform": 9}, "target_modules: query, value; layers_to_transform: 9"),
        ({**BERT, "layers_to_transform": [0], "layers_pattern": ["layer", "blocks"]}, "layers_pattern: blocks"),
        ({**BERT, "target_parameters": ["word_embeddings.weight", "mlp.weight"]}, "target_parameters: mlp.weight"),
        ({**BERT, "trainable_token_indices": {"embed_tokens": [5]}}, "trainable_token_indices: embed_tokens"),
        (
            {"type": "IA3", "target_modules": r".*\.(query|value)", "feedforward_modules": ["fc2"]},
            "feedforward_modules: fc2",
        ),
        ({"type": "TRAINABLE_TOKENS", "target_modules": ["wte"], "token_indices": [5]}, "target_modules: wte"),
        ({"type": "OSF", **BERT, "rank_pattern": {"que": 2, "q_proj": 2}}, "rank_pattern: q_proj"),
        ({"type": "C3A", **BERT, "block_size": 8, "block_size_pattern": {"key": 4}}, "block_size_pattern: key"),
        ({"type": "DELORA", **BERT, "lambda_pattern": {"key": 4}}, "lambda_pattern: key"),
        ({"type": "P_TUNING", "num_virtual_tokens": 3, "modules_to_save": ["score"]}, "modules_to_save: score"),
    ],
    ids=str,
)
def test_names_that_hit_nothing_are_refused(peft: dict[str, Any], idle: str, model_folders: Folders) -> None:
    with pytest.raises(UserError) as raised:
        adapt(peft, model_folders["bert"], "text")
    said = str(raised.value)
    assert f"names that match nothing in BertModel: {idle}" in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("peft", "modules"),
    [
        (BERT, 8),
        ({"target_modules": r".*\.(query|q_proj|value)"}, 8),
        ({"target_modules": "all-linear"}, 24),
        ({**BERT, "modules_to_save": ["attention.output.LayerNorm"]}, 8),
        ({**BERT, "exclude_modules": ["layer.0.attention.self.query"]}, 7),
        ({**BERT, "rank_pattern": {r"layer\.[01]\..*query": 2}}, 8),
        ({**BERT, "layers_to_transform": [1, 3], "layers_pattern": "layer"}, 4),
        ({**BERT, "trainable_token_indices": [5, 6]}, 8),
        ({**BERT, "trainable_token_indices": {"word_embeddings": [5]}}, 8),
        ({"type": "IA3", **BERT, "feedforward_modules": ["value"]}, 8),
        ({"type": "OSF", **BERT, "rank_pattern": {"que": 2}}, 8),
        ({"target": ["query"], "rank_pattern": {"query": 2}}, 4),
    ],
    ids=str,
)
def test_names_that_hit_are_not(peft: dict[str, Any], modules: int, model_folders: Folders) -> None:
    tokens = 1 if "trainable_token_indices" in peft else 0  # peft's layer of trained tokens is adapted too
    assert adapt(peft, model_folders["bert"], "text") == modules + tokens


def test_a_pattern_serves_two_encoders_as_roles_do(model_folders: Folders) -> None:
    pattern = {"target_modules": r".*\.(query|q_proj|value|v_proj)"}
    for family, modality in (("bert", "text"), ("vit", "image")):
        assert adapt(pattern, model_folders[family], modality) == 8
        assert adapt({"target": ["query", "value"]}, model_folders[family], modality) == 8


@pytest.mark.parametrize("verb", ["run", "plan"])
def test_the_run_is_refused_before_anything_runs(
    verb: str, model_folders: Folders, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    methods = [{"name": "frozen"}, {"name": "mine", "peft": {"type": "LORA", **BERT}}]
    (tmp_path / "m.toml").write_text(to_toml(parse(matrix(model_folders, methods=methods, seeds=[0, 1]), "t")))
    more = ["--out", str(tmp_path / "out")] if verb == "run" else []
    assert run_bench.main([verb, "--config", str(tmp_path / "m.toml"), *more]) == 2
    said = capsys.readouterr().err
    assert said.count("method mine: option peft: names that match nothing in ViTModel: target_modules: query") == 1
    assert not (tmp_path / "out").exists()
