"""Where things are inside a transformers encoder: its layers, attention projections and block outputs.

Modules are found by the names that BERT- and ViT-like families give them. A role that is found nowhere is an
error: in transformers 5 BERT says ``query`` and ViT ``q_proj``, and a list of names made for one of them would
silently leave the other one alone.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from bench.errors import UserError

Role = Literal["query", "key", "value", "attention_output", "mlp_output"]

# Ends of dotted module names inside one layer. The attention's own output must not pass for the MLP's.
SUFFIXES: dict[Role, tuple[str, ...]] = {
    "query": ("query", "q_proj", "q_lin"),
    "key": ("key", "k_proj", "k_lin"),
    "value": ("value", "v_proj", "v_lin"),
    "attention_output": ("attention.output.dense", "attention.o_proj", "attention.out_lin"),
    "mlp_output": ("output.dense", "mlp.fc2", "ffn.lin2"),
}


def layers(model: nn.Module) -> nn.ModuleList:
    """The stack of transformer layers.

    Raises:
        UserError: if no module list of ``num_hidden_layers`` modules exists.
    """
    depth = getattr(model.config, "num_hidden_layers", None)
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return module
    raise UserError(f"model {type(model).__name__}: no stack of {depth} layers found; this family is not supported yet")


def linears(model: nn.Module, role: Role) -> dict[str, nn.Linear]:
    """All linear maps of a role, by dotted name in ``model``.

    Raises:
        UserError: if the role is found in no layer.
    """
    stack = layers(model)
    prefix = next(name for name, module in model.named_modules() if module is stack)
    found = {
        f"{prefix}.{name}": module
        for name, module in stack.named_modules()
        if isinstance(module, nn.Linear) and _has_role(name.partition(".")[2], role)
    }
    if not found:
        raise UserError(f"model {type(model).__name__}: no {role} projection found; this family is not supported yet")
    return found


def _has_role(name: str, role: Role) -> bool:
    if role == "mlp_output" and _has_role(name, "attention_output"):
        return False
    return any(name == suffix or name.endswith("." + suffix) for suffix in SUFFIXES[role])


def attentions(model: nn.Module) -> list[nn.Module]:
    """The module that calls the attention function, one per layer: the owner of the query projection."""
    return [model.get_submodule(name.rpartition(".")[0]) for name in linears(model, "query")]


def replace(model: nn.Module, name: str, module: nn.Module) -> None:
    """Puts ``module`` where the dotted ``name`` points."""
    owner, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(owner), attribute, module)
