"""Folders and names of models that are refused before a library looks at them, and code that does not run unasked."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bench.models.backbones import load_model, locate
from bench.utils.errors import UserError


@pytest.mark.parametrize(
    "name",
    ["/nope", "./nope", "../nope", "~/nope", "a/b/c", "nope/", "a b", "", "x" * 5000, "a\0b", "a\nb", "\\\\host\\x"],
)
def test_what_looks_like_a_path_does_not_go_to_the_hub(name: str) -> None:
    with pytest.raises(UserError, match=r"--text-model .*: no such folder") as caught:
        locate(name, "text")
    assert str(caught.value).isprintable()


def test_a_file_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match="is a file; name the folder"):
        locate(str(tmp_path / "model.safetensors"), "text")


def test_a_folder_without_weights(model_folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copy(model_folders["bert"] / "config.json", tmp_path)
    with pytest.raises(UserError, match=r"no weights \(\*\.safetensors\)"):
        locate(str(tmp_path), "text")
    assert locate(str(tmp_path), "text", "random").random


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "null",
        '{"image_mean": 7}',
        '{"image_mean": ["a", "b"], "size": "big"}',
        "[" * 5000,
        '{"image_std": [0]}',
    ],
)
def test_preprocessing_that_makes_no_sense(model_folders: dict[str, Path], tmp_path: Path, content: str) -> None:
    shutil.copytree(model_folders["vit"], tmp_path / "vit")
    (tmp_path / "vit" / "preprocessor_config.json").write_text(content)
    with pytest.raises(UserError, match=r"--image-model .*: its configuration is not valid"):
        locate(str(tmp_path / "vit"), "image")


@pytest.fixture
def with_code(model_folders: dict[str, Path], tmp_path: Path) -> Path:
    """A model whose configuration is a class of its own, which leaves a mark when it is imported."""
    folder = tmp_path / "own"
    shutil.copytree(model_folders["bert"], folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "ours", "auto_map": {"AutoConfig": "ours.OursConfig"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "ours.py").write_text(
        f"from pathlib import Path\nfrom transformers import BertConfig\nPath({str(tmp_path / 'ran')!r}).touch()\n"
        "class OursConfig(BertConfig):\n    model_type = 'ours'\n"
    )
    return folder


def test_code_of_a_model_runs_when_asked_and_only_then(
    with_code: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    with pytest.raises(UserError, match="the model comes with Python code, which runs only with --trust-remote-code"):
        locate(str(with_code), "text")
    assert not (tmp_path / "ran").exists()
    assert locate(str(with_code), "text", trust_remote_code=True).trust_remote_code
    assert (tmp_path / "ran").exists()


MODELING = """
import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

class OwnConfig(PretrainedConfig):
    model_type = "own"

class OwnModel(PreTrainedModel):
    config_class = OwnConfig
    def __init__(self, config):
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList([nn.Linear(8, 8) for _ in range(config.num_hidden_layers)])
        self.register_buffer("inv_freq", 1.0 / 10000 ** (torch.arange(8) / 8), persistent=False)
        self.post_init()
    def _init_weights(self, module):
        if isinstance(module, (nn.Linear, nn.Embedding)):
            module.weight.data.normal_(std=0.5)
    def forward(self, input_ids, attention_mask=None):
        x = self.embed(input_ids) * self.inv_freq
        for layer in self.layers:
            x = x + layer(x)
        return BaseModelOutput(last_hidden_state=x)
"""


def test_buffers_of_a_models_own_code_have_their_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers 5 leaves buffers that are in no checkpoint as they lie in memory (its issue 48892)."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "modeling_own.py").write_text(MODELING)
    sizes = {"vocab_size": 30, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    auto_map = {"AutoConfig": "modeling_own.OwnConfig", "AutoModel": "modeling_own.OwnModel"}
    (folder / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": auto_map, **sizes}))
    drawn = load_model(locate(str(folder), "text", "random", trust_remote_code=True))
    save_file(dict(drawn.state_dict()), folder / "model.safetensors", metadata={"format": "pt"})
    loaded = load_model(locate(str(folder), "text", trust_remote_code=True))
    assert torch.equal(loaded.inv_freq, 1.0 / 10000 ** (torch.arange(8) / 8))  # type: ignore[arg-type]
    assert all(torch.equal(value, drawn.state_dict()[name]) for name, value in loaded.state_dict().items())
