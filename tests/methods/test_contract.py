"""Our methods keep the contract; and for each check there is a method that fails it, and nothing else."""

from __future__ import annotations

import copy
import textwrap
from pathlib import Path

import pytest
import torch

from bench.commands.check import conformance
from methods.contract import CHECKS, Outcome
from methods.contract.rig import BOTH
from methods.registry import REGISTRY

SHALLOW = 2

HEAD = """
import random
from dataclasses import dataclass, field
import torch
from torch import nn
from bench.models.structure import layers
from methods.base import Adaptation, EncoderMethod, Group, Head, HiddenMethod, register


def norms(encoder):
    return [m for m in encoder.model.modules() if isinstance(m, nn.LayerNorm)]


def adaptation(modules, lr=1e-3):
    return Adaptation([p for m in modules for p in m.parameters()], lr, len(modules))
"""

ADAPTS = """
@register("broken")
@dataclass(frozen=True)
class Broken(EncoderMethod):
    def adapt(self, encoder):
        found = norms(encoder)
"""

READS = """
@register("broken")
@dataclass(frozen=True)
class Broken(HiddenMethod):
    lr_head: float = 1e-5
    lr: float = 3e-3

    def kept(self, shape):
        return (0, shape.depth)

    def network(self, shapes, d):
        return Net({m: s.width for m, s in shapes.items()}, d, self)

    def split(self, network):
        return (Group("head", self.lr, tuple(p for p in network.parameters() if p.requires_grad)),)


class Net(nn.Module):
    def __init__(self, widths, d, options):
        super().__init__()
        self.head = Head(widths, d)
        self.cached = options.cached
"""

# Check -> what stands below HEAD, and a part of what is found.
BROKEN = {
    "import": (
        f"torch.manual_seed(3)\n{ADAPTS}        return adaptation(found)",
        "importing its file changes torch's random state",
    ),
    "builds": (
        ADAPTS + "        return adaptation([m for m in found if encoder.modality == 'text'])",
        "no module of the image encoder was adapted",
    ),
    "trains": (ADAPTS + "        return adaptation(found, 1e-30)", "did not change although they get a gradient"),
    "loss-falls": (
        READS
        + """
    def forward(self, states):
        vectors = self.head({m: s[:, -1] for m, s in states.items()})
        return 2 * vectors.detach() - vectors  # the same values, the gradient turned round
""",
        "the loss on one batch is",
    ),
    "frozen-stays": (
        ADAPTS
        + """
        weight = layers(encoder.model)[0].get_parameter(
            next(n for n, p in layers(encoder.model)[0].named_parameters() if p.ndim == 2))

        @torch.no_grad()
        def decay(module, args):
            if module.training:
                weight.mul_(0.999)

        encoder.model.register_forward_pre_hook(decay)
        return adaptation(found)
""",
        "changed in 3 steps, e.g. the frozen parameter",
    ),
    "counts": (
        ADAPTS
        + """
        found[0].requires_grad_(True)
        return adaptation(found[1:])
""",
        "requires a gradient but is in no group: 4 parameters",
    ),
    "deterministic": (
        ADAPTS
        + """
        with torch.no_grad():
            found[0].weight.mul_(1 + random.random())
        return adaptation(found)
""",
        "two runs from one seed differ",
    ),
    "saved": (
        READS
        + """
        self.scale = 1 + random.Random(torch.initial_seed()).random()

    def forward(self, states):
        return self.head({m: s[:, -1] * self.scale for m, s in states.items()})
""",
        "the saved state, loaded into a new instance, gives other vectors",
    ),
    "one-modality": (
        READS
        + """
    def forward(self, states):
        return self.head({"text": states["text"][:, -1], "image": states["image"][:, -1]})
""",
        "with text only: KeyError: 'image'",
    ),
    "other-modality": (
        "LAST = {}\n"
        + ADAPTS
        + """
        for modality, other in LAST.items():
            if modality != encoder.modality:
                with torch.no_grad():
                    norms(other)[0].weight.mul_(1.5)
        LAST.clear()
        LAST[encoder.modality] = encoder
        return adaptation(found)
""",
        "adapting the text encoder changes the image encoder: parameter",
    ),
    "no-leaks": (
        ADAPTS
        + """
        encoder.model.register_forward_pre_hook(
            lambda module, args: module.register_forward_hook(lambda *args: None) and None)
        return adaptation(found)
""",
        "more hooks after 3 further steps",
    ),
    "memory": (
        ADAPTS
        + """
        kept = []
        found[0].register_forward_hook(lambda module, args, out: kept.append(out.detach()) and None)
        return adaptation(found)
""",
        "3 steps in a row take",
    ),
    "cached-equals-live": (
        READS
        + """
    def forward(self, states):
        return self.head({m: s[:, 0 if self.cached else 1] for m, s in states.items()})
""",
        "live and cached runs differ (at the start)",
    ),
    "plan": (
        READS
        + """
    def forward(self, states):
        scale = 2 if next(iter(states.values())).sum().item() > 1e9 else 1
        return self.head({m: s[:, -1] * scale for m, s in states.items()})
""",
        "a step on fake tensors fails",
    ),
}


@pytest.fixture(autouse=True)
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer layers, so that the whole suite takes a second or two; the command has its own depth."""
    less = {m: {**c, "num_hidden_layers": SHALLOW} for m, c in copy.deepcopy(conformance.CONFIGURATIONS).items()}
    monkeypatch.setattr(conformance, "CONFIGURATIONS", less)


def outcomes(name: str, changed: list[str] | None = None) -> dict[str, Outcome]:
    return {outcome.check: outcome for outcome, _ in conformance.check(name, changed or [])}


def of_text(text: str, tmp_path: Path) -> dict[str, Outcome]:
    file = tmp_path / "broken.py"
    file.write_text(HEAD + textwrap.dedent(text), encoding="utf-8")
    ((name, changed),) = conformance.load_methods([file], []).items()
    return outcomes(name, changed)


@pytest.mark.parametrize("name", [name for name, entry in REGISTRY.items() if not entry.preset])
@pytest.mark.slow
def test_our_methods_keep_it(name: str) -> None:
    found = outcomes(name)
    assert list(found) == list(CHECKS)
    assert {check: o.finding for check, o in found.items() if o.status == "failed"} == {}
    # Not more is left out than what asks nothing of a method of this kind.
    assert sum(o.status == "skipped" for o in found.values()) == 1


def test_a_method_that_goes_along_with_training_keeps_it(tmp_path: Path) -> None:
    """What it keeps of every step is in buffers that change; its penalty is planned to the byte as well."""
    text = """
    from methods.peft.tuner import Tuner

    @register("broken")
    @dataclass(frozen=True)
    class Follows(Tuner):
        peft: dict = field(default_factory=lambda: {"type": "ADALORA", "init_r": 4, "target_r": 2})
    """
    found = of_text(text, tmp_path)
    assert {check: o.finding for check, o in found.items() if o.status != "passed"} == {
        "cached-equals-live": "the method reads raw items, so there is nothing to cache"
    }


def test_there_is_a_broken_method_for_every_check() -> None:
    assert list(BROKEN) == list(CHECKS)


@pytest.mark.parametrize("check", BROKEN)
@pytest.mark.slow
def test_what_is_broken_fails_that_check_alone(check: str, tmp_path: Path) -> None:
    state = torch.get_rng_state()
    text, said = BROKEN[check]
    found = of_text(text, tmp_path)
    torch.set_rng_state(state)
    assert {name for name, o in found.items() if o.status == "failed"} == {check}, found
    assert said in found[check].finding
    assert found[check].advice
    if check == "builds":
        assert {o.status for name, o in found.items() if name not in ("import", "builds")} == {"skipped"}


@pytest.mark.parametrize(
    ("check", "text", "said"),
    [
        (
            "counts",
            READS + "        self.idle = nn.Parameter(torch.ones(3))\n\n    def forward(self, states):\n"
            "        return self.head({m: s[:, -1] for m, s in states.items()})",
            "declared but without a gradient in 3 steps: 1 parameter, e.g. head.idle",
        ),
        ("counts", ADAPTS + "        return adaptation([*found, found[0]])", "declared twice: 4 parameters"),
        (
            "frozen-stays",
            READS + "        self.norm = nn.BatchNorm1d(d)\n\n    def forward(self, states):\n"
            "        return self.norm(self.head({m: s[:, -1] for m, s in states.items()}))",
            "e.g. the buffer head.norm",
        ),
        (
            "no-leaks",
            ADAPTS + "        torch.set_float32_matmul_precision('medium')\n        return adaptation(found)",
            "building and training changes the precision of float32 products",
        ),
        (
            "no-leaks",
            ADAPTS
            + "        plain = type(layers(encoder.model)[0])\n        forward = plain.forward\n"
            + "        plain.forward = lambda self, *args, **kwargs: forward(self, *args, **kwargs) * 1.01\n"
            + "        return adaptation(found)",
            "the output of another text encoder, which the method was never given, has changed",
        ),
        ("builds", ADAPTS + "        raise ValueError('no such thing')", "ValueError: no such thing (broken.py, line"),
    ],
)
@pytest.mark.slow
def test_further_findings(check: str, text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.models.bert.modeling_bert import BertLayer
    from transformers.models.vit.modeling_vit import ViTLayer

    for cls in (BertLayer, ViTLayer):
        monkeypatch.setattr(cls, "forward", cls.forward)
    precision = torch.get_float32_matmul_precision()
    try:
        found = of_text(text, tmp_path)[check]
    finally:
        torch.set_float32_matmul_precision(precision)
    assert found.status == "failed"
    assert said in found.finding


def test_the_rig_gives_both_modalities_and_padding(tmp_path: Path) -> None:
    with conformance.encoder_folders() as folder:
        rig = conformance.HarnessRig("bitfit", folder, [])
        case = rig.case()
        assert set(case.encoders) == set(BOTH)
        batch = case.batch()
        assert (batch.inputs["attention_mask"] == 0).any()
        assert (batch.items == -1).any()
        assert len(batch.log_popularity) == len(batch.inputs["pixels"]) < batch.items.numel()
