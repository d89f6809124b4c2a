"""Where things are inside a transformers encoder: its layers, attention projections and block outputs.

Found from the modules. The layers are the largest list of modules; inside a layer the projections of the attention go
by name, since their shapes are alike, and what comes out of attention and MLP by place and shape. A role that is
missing in some layer is an error: in transformers 5 BERT says ``query`` and ViT ``q_proj``, and a list of names made
for one of them would silently leave the other one alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeAlias

from torch import nn
from transformers.pytorch_utils import Conv1D

from bench.models import families
from bench.utils.errors import UserError

Role = Literal["query", "key", "value", "attention_output", "mlp_output"]
Target = Literal["query", "key", "value", "output", "mlp", "mlp-output", "norm", "all-linear"]
ONE_PER_LAYER: dict[str, Role] = {
    "query": "query",
    "key": "key",
    "value": "value",
    "output": "attention_output",
    "mlp-output": "mlp_output",
}
LinearMap: TypeAlias = nn.Linear | Conv1D
Maps = dict[str, LinearMap]

# Last part of a projection's dotted name. One map that gives query, key and value together has all three roles.
PROJECTIONS: dict[str, tuple[str, ...]] = {
    "query": ("query", "q_proj", "q_lin", "q", "query_proj"),
    "key": ("key", "k_proj", "k_lin", "k", "key_proj"),
    "value": ("value", "v_proj", "v_lin", "v", "value_proj"),
    "fused": ("c_attn", "Wqkv", "qkv", "qkv_proj", "query_key_value", "in_proj"),
}


def sizes(linear: LinearMap) -> tuple[int, int]:
    """Features in and out."""
    if isinstance(linear, nn.Linear):
        return linear.in_features, linear.out_features
    return int(linear.nx), int(linear.nf)


def layers(model: nn.Module) -> list[nn.Module]:
    """The layers in the order in which they run, stages laid end to end; one that runs again and again stands once.

    Raises:
        UserError: if no list of as many modules as the configuration says exists.
    """
    depth = families.depth(model.config)
    found = _largest_list(model)
    if len(found) != depth or families.is_hierarchical(model.config):
        found = [layer for stage in found for layer in _largest_list(stage)] or found
    if not found or depth % len(found):
        raise UserError(f"model {type(model).__name__}: no stack of {depth} layers found; this family is not supported")
    return found


def _largest_list(module: nn.Module) -> list[nn.Module]:
    """The modules of the outermost list with the most parameters."""
    return max(_lists(module), key=lambda found: sum(p.numel() for m in found for p in m.parameters()), default=[])


def _lists(module: nn.Module) -> Iterator[list[nn.Module]]:
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield list(child)
        else:
            yield from _lists(child)


def linears(model: nn.Module, role: Role) -> dict[str, LinearMap]:
    """All linear maps of a role, by dotted name in ``model``, layer by layer.

    Raises:
        UserError: if the role is not found in every layer.
    """
    names = {id(module): name for name, module in model.named_modules()}
    found: dict[str, LinearMap] = {}
    stack = layers(model)
    missing = 0
    for layer in stack:
        hits = _roles(layer)
        missing += role not in hits
        if role in hits:
            name = hits[role]
            found[f"{names[id(layer)]}.{name}"] = layer.get_submodule(name)
    if missing:
        what = role.replace("_", " ").replace("mlp", "MLP")
        raise UserError(f"{type(model).__name__} has no {what} map in {missing} of its {len(stack)} layers")
    return found


def targets(model: nn.Module, role: Target) -> dict[str, nn.Module]:
    """All modules that a role means, by dotted name in ``model``: of "mlp", "norm" and "all-linear" several per layer.

    Raises:
        UserError: if a layer, or for those three the whole model, has none.
    """
    if role in ONE_PER_LAYER:
        return dict(linears(model, ONE_PER_LAYER[role]))
    names = {id(module): name for name, module in model.named_modules()}
    found = {
        f"{names[id(layer)]}.{name}": module
        for layer in layers(model)
        for name, module in _several(layer, role).items()
    }
    if not found:
        raise UserError(f"{type(model).__name__} has no module of the role {role}")
    return found


def _several(layer: nn.Module, role: Target) -> Mapping[str, nn.Module]:
    if role == "norm":
        return {name: module for name, module in layer.named_modules() if type(module).__name__.endswith("Norm")}
    maps = _maps(layer)
    return maps if role == "all-linear" else _split(maps)[2]


def has_attention(model: nn.Module) -> bool:
    """Whether the configuration counts heads; ConvNeXt's does not. What was found may be too little to tell."""
    return any(getattr(model.config, name, None) is not None for name in ("num_attention_heads", "num_heads"))


def _roles(layer: nn.Module) -> dict[str, str]:
    """Role -> dotted name inside the layer."""
    maps = _maps(layer)
    projections, inside, outside = _split(maps)
    width = sizes(maps[projections["query"]])[0] if projections["query"] else None
    found = projections | {"attention_output": _last_of(width, inside), "mlp_output": _last_of(width, outside)}
    return {role: name for role, name in found.items() if name}


def _maps(layer: nn.Module) -> Maps:
    """The linear maps of a layer, by dotted name inside it."""
    return {
        name: module
        for name, module in layer.named_modules()
        if isinstance(module, LinearMap) and name.rpartition(".")[2] not in families.NO_PROJECTIONS
    }


def _split(maps: Maps) -> tuple[dict[str, str], Maps, Maps]:
    """The names of the projections by role, "" where there is none, and the other maps in and outside the attention."""
    named = {
        role: name for name in reversed(maps) for role, words in PROJECTIONS.items() if name.rpartition(".")[2] in words
    }
    found = {role: named.get(role, named.get("fused", "")) for role in ("query", "key", "value")}
    rest = {name: linear for name, linear in maps.items() if name not in named.values()}
    block = _attention_block(found["query"], maps, rest)
    inside = {name: linear for name, linear in rest.items() if block and name.startswith(f"{block}.")}
    return found, inside, {name: linear for name, linear in rest.items() if name not in inside}


def _attention_block(query: str, maps: Maps, rest: Maps) -> str:
    """The smallest module around the query that has another map to the layer's width: BERT's is not its owner."""
    block = query.rpartition(".")[0]
    while block:
        if _last_of(sizes(maps[query])[0], {name: m for name, m in rest.items() if name.startswith(f"{block}.")}):
            return block
        block = block.rpartition(".")[0]
    return ""


def _last_of(width: int | None, maps: Maps) -> str:
    """The last map that gives ``width`` features, or the last of all where no width is known."""
    return next((name for name in reversed(maps) if width in (None, sizes(maps[name])[1])), "")


def attentions(model: nn.Module) -> list[nn.Module]:
    """The module that calls the attention function, one per layer: the owner of the query projection."""
    return [model.get_submodule(name.rpartition(".")[0]) for name in linears(model, "query")]


def replace(model: nn.Module, name: str, module: nn.Module) -> None:
    """Puts ``module`` where the dotted ``name`` points."""
    owner, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(owner), attribute, module)


def drop_idle(model: Any) -> None:
    """Takes out what no vector passes through: it would get no gradient and must not be counted.

    Poolers and heads, since the pooling here is one of its own, and the token that stands for what pretraining hid.
    """
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    if getattr(model, "head", None) is not None:
        model.head = nn.Identity()
    for module in model.modules():
        if getattr(module, "mask_token", None) is not None:
            module.mask_token = None
