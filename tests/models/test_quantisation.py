"""Quantised encoders: against the weights they came from, by their bytes, in training, and planned as measured."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, BertTokenizer, T5Config, T5EncoderModel, ViTConfig, ViTModel

from bench.cell.assemble import assemble, build_model
from bench.cell.hidden_cache import encoder_digest, source_digest
from bench.cell.run_cell import run_cell
from bench.config.cells import Cell, cells
from bench.config.matrix import build_method, parse
from bench.measure.memory import account
from bench.models.backbones import locate
from bench.models.config import Quantisation
from bench.models.quantisation import LIBRARIES, count_values, quantise, storage_tensors
from bench.utils.errors import UserError
from methods.peft.tuner import Tuner
from tests.helpers import encoder, inputs
from tests.tiny import VOCABULARY, FamilyFolder, cell_of, matrix, measured, planned

Folders = dict[str, Path]
FAMILIES = {"text": "bert", "image": "vit"}


@pytest.fixture(scope="module")
def wide_folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """As ``model_folders``, wide enough for NF4's blocks of 64."""
    base = tmp_path_factory.mktemp("wide")
    size: Any = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128, "hidden_size": 64}
    torch.manual_seed(0)
    BertModel(BertConfig(vocab_size=len(VOCABULARY), max_position_embeddings=40, **size)).save_pretrained(base / "bert")
    BertTokenizer(vocab=VOCABULARY, model_max_length=40).save_pretrained(base / "bert")
    ViTModel(ViTConfig(image_size=32, patch_size=16, **size)).save_pretrained(base / "vit")
    T5EncoderModel(T5Config(vocab_size=300, d_model=64, d_ff=128, d_kv=32, num_layers=2, num_heads=2)).save_pretrained(
        base / "t5"
    )
    return {family: base / family for family in ("bert", "vit", "t5")}


def marked(kind: Quantisation) -> Any:
    missing = importlib.util.find_spec(LIBRARIES[kind]) is None
    return pytest.param(kind, marks=pytest.mark.skipif(missing, reason=f"{LIBRARIES[kind]} is not installed"))


NF4, INT8 = marked("bnb-nf4"), marked("torchao-int8")
nf4 = pytest.mark.parametrize("kind", [NF4])
both = pytest.mark.parametrize("kind", [NF4, INT8])


def cell(name: str, kind: Quantisation | None, folders: Folders, **changes: Any) -> Cell:
    pair = {m: str(folders[family]) for m, family in FAMILIES.items()} | ({"quantise": kind} if kind else {})
    return cell_of(name, folders, **{"backbones": [pair], "budget": {"steps": 2, "batch_size": 16}} | changes)


def maps(model: nn.Module) -> dict[str, nn.Linear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}


def in_full(linear: nn.Linear) -> Tensor:
    """The weight that a quantised map computes with: what it makes of the identity."""
    with torch.no_grad():
        return (linear(torch.eye(linear.in_features)) - linear.bias).T


@both
def test_every_map_of_the_layers_is_within_a_step_of_what_it_was(kind: Quantisation, wide_folders: Folders) -> None:
    for modality, family in FAMILIES.items():
        e = encoder(wide_folders[family], modality)
        before = {name: linear.weight.detach().clone() for name, linear in maps(e.model).items()}
        rest = {name: p for name, p in e.model.named_parameters() if name.removesuffix(".weight") not in before}
        values = count_values(e.parameters())
        quantise(e.model, kind, "fp32")
        after = maps(e.model)
        assert len(after) == len(before) == 2 * 6
        for name, weight in before.items():
            # The widest gap between two of the 16 values of NF4 is 0.304 of the largest weight (QLoRA, appendix E).
            blocks = weight.reshape(-1, 64) if kind == "bnb-nf4" else weight
            half = (0.304 if kind == "bnb-nf4" else 1 / 127) / 2
            step = half * blocks.abs().amax(1, keepdim=True).expand_as(blocks).reshape(weight.shape)
            assert ((in_full(after[name]) - weight).abs() <= step * 1.01 + 1e-6).all()
        now = dict(e.model.named_parameters())
        assert all(torch.equal(p, now[name]) for name, p in rest.items())
        assert count_values(e.parameters()) == values


@both
def test_vectors_stay_close_and_eval_mode_changes_nothing(kind: Quantisation, wide_folders: Folders) -> None:
    for modality, family in FAMILIES.items():
        e, x = encoder(wide_folders[family], modality), inputs(modality)
        with torch.no_grad():
            plain = e(x)
            quantise(e.model, kind, "fp32")
            e.requires_grad_(False)
            first = e.eval()(x)
        assert 0 < (first - plain).square().mean().sqrt() < (0.3 if kind == "bnb-nf4" else 0.03) * plain.std()
        # A gradient must still find its way after the forward passes without one.
        hook = torch.zeros(1, requires_grad=True)
        handle = e.model.get_submodule("embeddings").register_forward_hook(lambda _, __, out: out + hook)  # noqa: B023
        second = e(x)
        second.square().sum().backward()
        handle.remove()
        assert torch.allclose(first, second, atol=1e-6)
        assert hook.grad is not None


@both
def test_bytes_of_the_weights_are_those_of_the_formula(kind: Quantisation, wide_folders: Folders) -> None:
    e = encoder(wide_folders["bert"], "text")
    weights = {name: linear.weight.numel() for name, linear in maps(e.model).items()}
    outputs = sum(linear.out_features for linear in maps(e.model).values())
    rest = sum(t.nbytes for t in (*e.parameters(), *e.buffers())) - 4 * sum(weights.values())
    quantise(e.model, kind, "fp32")
    if kind == "bnb-nf4":  # half a byte each, a scale per 64, and the 16 values of the format
        expected = sum(n // 2 + 4 * -(-n // 64) + 4 * 16 for n in weights.values())
    else:  # a byte each, a scale and a zero point (one byte) per output feature
        expected = sum(weights.values()) + 5 * outputs
    assert sum(t.nbytes for p in (*e.parameters(), *e.buffers()) for t in storage_tensors(p)) == expected + rest
    e.requires_grad_(False)
    at_rest = account(lambda: None, modules=[e.model], steps=1)
    assert at_rest.parameters == at_rest.peak_bytes == expected + rest


@pytest.mark.parametrize("name", ["lora", "adapter", "bitfit", "prefix", "frozen", "iisan", "iisan-cached"])
@nf4
def test_steps_are_planned_to_the_byte_and_count_as_in_full(
    name: str, kind: Quantisation, wide_folders: Folders
) -> None:
    spec = cell(name, kind, wide_folders)
    plan, plain = planned(spec), planned(cell(name, None, wide_folders))
    assert (plan.memory, plan.flops) == measured(spec)
    assert plan.flops == plain.flops
    assert (plan.trainable_params, plan.total_params) == (plain.trainable_params, plain.total_params)
    if plan.cache_bytes is None:
        assert plan.memory.parameters < plain.memory.parameters


@both
def test_a_cell_leaves_a_record_that_says_so(kind: Quantisation, wide_folders: Folders, tmp_path: Path) -> None:
    """The gates hold: the loss falls, and what is quantised stays as it is."""
    record = run_cell(cell("lora", kind, wide_folders), tmp_path / "cell", lambda _: None)
    row = record["row"]
    assert row["status"] == "ok", record
    assert row["text_model"] == f"{wide_folders['bert']} ({kind})"
    for column in ("peak_memory_bytes", "flops_forward", "flops_backward", "total_params", "trainable_params"):
        assert record["plan"][column] == row[column]


@both
def test_full_fine_tuning_is_refused(kind: Quantisation, wide_folders: Folders, tmp_path: Path) -> None:
    row = run_cell(cell("fft", kind, wide_folders), tmp_path / "fft", lambda _: None)["row"]
    assert (row["status"], row["error"].partition(";")[0]) == ("failed", "trains quantised weights")


@nf4
def test_sixteen_bits_compute_in_sixteen_bits(kind: Quantisation, wide_folders: Folders, tmp_path: Path) -> None:
    spec = cell("lora", kind, wide_folders, precision="bf16")
    assembly = assemble(spec, torch.device("cpu"))
    packed = [m for m in assembly.encoders[0].model.modules() if getattr(m, "quant_state", None) is not None]
    assert {(m.compute_dtype, m.bias.dtype) for m in packed} == {(torch.bfloat16, torch.bfloat16)}
    # Outside autocast, 32-bit numbers come in; they are computed on as in training.
    x = torch.randn(3, packed[0].in_features)
    whole = torch.nn.functional.linear(x.bfloat16(), in_full_16(packed[0]), packed[0].bias).float()
    assert torch.allclose(packed[0](x), whole, atol=1e-2)
    record = run_cell(spec, tmp_path / "cell", lambda _: None)
    assert record["row"]["status"] == "ok", record
    assert record["plan"]["peak_memory_bytes"] == record["row"]["peak_memory_bytes"]
    with pytest.raises(UserError, match="keeps in 16 bit; use --precision fp32"):
        assemble(cell("bitfit", kind, wide_folders, precision="bf16"), torch.device("cpu"))


def in_full_16(linear: Any) -> Tensor:
    import bitsandbytes

    return bitsandbytes.functional.dequantize_4bit(linear.weight.data, linear.quant_state).to(linear.compute_dtype)


@nf4
def test_a_cache_is_of_the_quantised_encoder_and_gives_what_it_gives_live(
    kind: Quantisation, wide_folders: Folders
) -> None:
    training = matrix(wide_folders)["training"] | {"cache_dtype": "float32"}
    cached, live = (
        assemble(cell(name, kind, wide_folders, training=training), torch.device("cpu"))
        for name in ("iisan-cached", "iisan")
    )
    rows = np.arange(20)
    with torch.no_grad():
        theirs, ours = (a.model.item_encoder.source(a.feed.gather(rows)) for a in (cached, live))  # type: ignore[union-attr, operator]
    assert all(torch.allclose(theirs[m], ours[m], atol=1e-5) for m in FAMILIES)
    source = locate(str(wide_folders["bert"]), "text")
    specs = [
        cell("iisan-cached", k, wide_folders, precision=p) for k, p in ((None, "fp32"), (kind, "fp32"), (kind, "bf16"))
    ]
    digests = [encoder_digest(source, spec) for spec in specs]
    assert digests[0] == source_digest(source, 0)
    assert len(set(digests)) == 3


@both
def test_t5_keeps_what_transformers_keeps(kind: Quantisation, wide_folders: Folders) -> None:
    """T5 casts what goes into this map to the type of its weights: packed bytes would make nonsense of it."""
    e = encoder(wide_folders["t5"], "text")
    with torch.no_grad():
        plain = e(inputs("text"))
        quantise(e.model, kind, "fp32")
        assert (e(inputs("text")) - plain).square().mean().sqrt() < 0.3 * plain.std()
    assert {type(m) is nn.Linear and m.weight.dtype for n, m in maps(e.model).items() if n.endswith(".wo")} == {
        torch.float32
    }


@nf4
def test_maps_that_the_library_gets_wrong_are_refused(
    kind: Quantisation, wide_folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As bitsandbytes 0.50 does on a CPU with AVX-512 where a block reaches from one row into the next."""
    import bitsandbytes

    right = bitsandbytes.functional.dequantize_4bit
    e = encoder(wide_folders["bert"], "text")
    monkeypatch.setattr(bitsandbytes.functional, "dequantize_4bit", lambda *args: right(*args).roll(1, 0))
    with pytest.raises(UserError, match="computes maps of 64 inputs wrongly"):
        quantise(e.model, kind, "fp32")


@both
def test_maps_of_another_class_are_refused(kind: Quantisation, family_folder: FamilyFolder) -> None:
    e = encoder(family_folder("gpt2"), "text")
    with pytest.raises(UserError, match="GPT2Model has no linear maps"):
        quantise(e.model, kind, "fp32")


@nf4
def test_a_tuner_that_reads_packed_weights_is_refused(kind: Quantisation, wide_folders: Folders) -> None:
    """UniLoRA gives its scales the type of the weights; in whole numbers they are all 0."""
    spec = cell("peft", kind, wide_folders, methods=[{"name": "peft", "peft": {"type": "UNILORA"}}])
    method = build_method(spec.method, "t")
    assert isinstance(method, Tuner)
    e = encoder(wide_folders["bert"], "text")
    quantise(e.model, kind, "fp32")
    with pytest.raises(UserError, match="reads packed weights as plain values"):
        build_model(spec, method, {}, {"text": e})


def test_what_is_not_installed_is_told_in_one_line(wide_folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for kind in LIBRARIES:
        with pytest.raises(UserError, match=r"is not installed; pip install 'iisan-bench\[quantise\]'"):
            assemble(cell("frozen", kind, wide_folders), torch.device("cpu"))


def test_pairs_that_differ_in_it_are_different_cells(wide_folders: Folders) -> None:
    pair = matrix(wide_folders)["backbones"][0]
    recipe = matrix(wide_folders, backbones=[pair, pair | {"quantise": "bnb-nf4"}], methods=[{"name": "lora"}])
    plain, packed = cells(parse(recipe, "t"), "cpu")
    assert plain.cell_id != packed.cell_id
    assert "-bnb-nf4--" in packed.cell_id
    assert packed.shown_model("image") == f"{plain.shown_model('image')} (bnb-nf4)"
    assert dataclasses.replace(packed, cell_id="").to_json() != dataclasses.replace(plain, cell_id="").to_json()
    with pytest.raises(UserError, match="backbones: given twice"):
        parse(recipe | {"backbones": [pair, pair]}, "t")
    with pytest.raises(UserError, match="quantise"):
        parse(recipe | {"backbones": [pair | {"quantise": "fp8"}]}, "t")


@both
def test_autocast_reaches_the_maps(kind: Quantisation, wide_folders: Folders) -> None:
    """As it does others: 16 bit come out, and no more is kept for backward than without quantisation."""
    e = encoder(wide_folders["bert"], "text")
    quantise(e.model, kind, "bf16")
    with torch.autocast("cpu", torch.bfloat16):
        found = {linear(torch.zeros(2, linear.in_features)).dtype for linear in maps(e.model).values()}
    assert found == {torch.bfloat16}
    plain, packed = (planned(cell("lora", k, wide_folders, precision="bf16")).memory for k in (None, kind))
    assert packed.activations < 1.01 * plain.activations
    assert packed.parameters < plain.parameters
