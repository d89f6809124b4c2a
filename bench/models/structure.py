"""Find layers, attention projections and output maps in any encoder of transformers, from its modules.

The layers are the largest list of modules. Inside a layer the projections of the attention are found by name, because
their shapes are alike, and the output maps of attention and MLP by order and shape. A role that is missing in some
layer is an error: in transformers 5 BERT has ``query`` and ViT ``q_proj``, and a list of names that was made for one
of them would silently skip the other.
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

# Last part of a projection's dotted name, by role. A fused map gives query, key and value and has all three roles.
PROJECTIONS: dict[str, tuple[str, ...]] = {
    "query": ("query", "q_proj", "q_lin", "q", "query_proj"),
    "key": ("key", "k_proj", "k_lin", "k", "key_proj"),
    "value": ("value", "v_proj", "v_lin", "v", "value_proj"),
    "fused": ("c_attn", "Wqkv", "qkv", "qkv_proj", "query_key_value", "in_proj"),
}


def sizes(linear: LinearMap) -> tuple[int, int]:
    """Number of input and output features of a linear map."""
    if isinstance(linear, nn.Linear):
        return linear.in_features, linear.out_features
    return int(linear.nx), int(linear.nf)


def layers(model: nn.Module) -> list[nn.Module]:
    """The layers in the order in which they run, stages joined; a layer that runs repeatedly is listed once.

    Raises:
        UserError: no list of modules fits the number of layers in the configuration.
    """
    depth = families.depth(model.config)
    stack = _largest_list(model)
    if len(stack) != depth or families.is_hierarchical(model.config):
        stack = [layer for stage in stack for layer in _largest_list(stage)] or stack
    # Layers that share weights are fewer than the depth; stages never share, so that theirs are too few to be layers.
    if not stack or depth % len(stack) or (families.is_hierarchical(model.config) and len(stack) != depth):
        raise UserError(f"model {type(model).__name__}: no stack of {depth} layers found; this family is not supported")
    return stack


def _largest_list(module: nn.Module) -> list[nn.Module]:
    """The modules of the outermost ``nn.ModuleList`` with the most parameters."""
    return max(_lists(module), key=lambda entries: sum(p.numel() for m in entries for p in m.parameters()), default=[])


def _lists(module: nn.Module) -> Iterator[list[nn.Module]]:
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield list(child)
        else:
            yield from _lists(child)


def linears(model: nn.Module, role: Role) -> dict[str, LinearMap]:
    """All linear maps of a role, by dotted name in ``model``, layer by layer.

    Raises:
        UserError: some layer has no map of this role.
    """
    names = {id(module): name for name, module in model.named_modules()}
    maps: dict[str, LinearMap] = {}
    stack = layers(model)
    missing = 0
    for layer in stack:
        roles = _roles(layer)
        missing += role not in roles
        if role in roles:
            name = roles[role]
            maps[f"{names[id(layer)]}.{name}"] = layer.get_submodule(name)
    if missing:
        label = role.replace("_", " ").replace("mlp", "MLP")
        raise UserError(f"{type(model).__name__} has no {label} map in {missing} of its {len(stack)} layers")
    return maps


def targets(model: nn.Module, role: Target) -> dict[str, nn.Module]:
    """All modules of a role, by dotted name in ``model``; "mlp", "norm" and "all-linear" have several per layer.

    Raises:
        UserError: a layer has no module of the role; for "mlp", "norm" and "all-linear", the whole model has none.
    """
    if role in ONE_PER_LAYER:
        return dict(linears(model, ONE_PER_LAYER[role]))
    names = {id(module): name for name, module in model.named_modules()}
    modules = {
        f"{names[id(layer)]}.{name}": module
        for layer in layers(model)
        for name, module in _modules_of_role(layer, role).items()
    }
    if not modules:
        raise UserError(f"{type(model).__name__} has no module of the role {role}")
    return modules


def _modules_of_role(layer: nn.Module, role: Target) -> Mapping[str, nn.Module]:
    if role == "norm":
        return {name: module for name, module in layer.named_modules() if type(module).__name__.endswith("Norm")}
    maps = _maps(layer)
    return maps if role == "all-linear" else _split(maps)[2]


def has_attention(model: nn.Module) -> bool:
    """True if the layers have attention, by the number of heads in the configuration; ConvNeXt has none."""
    return any(getattr(model.config, name, None) is not None for name in ("num_attention_heads", "num_heads"))


def _roles(layer: nn.Module) -> dict[str, str]:
    """Dotted name inside the layer of the map of each role; roles that the layer lacks are left out."""
    maps = _maps(layer)
    projections, inside, outside = _split(maps)
    width = sizes(maps[projections["query"]])[0] if projections["query"] else None
    roles = projections | {"attention_output": _last_of(width, inside), "mlp_output": _last_of(width, outside)}
    return {role: name for role, name in roles.items() if name}


def _maps(layer: nn.Module) -> Maps:
    """The linear maps of a layer, by dotted name inside the layer."""
    return {
        name: module
        for name, module in layer.named_modules()
        if isinstance(module, LinearMap) and name.rpartition(".")[2] not in families.NO_PROJECTIONS
    }


def _split(maps: Maps) -> tuple[dict[str, str], Maps, Maps]:
    """Names of the projections by role ("" if absent), and the other maps inside and outside the attention."""
    named = {
        role: name for name in reversed(maps) for role, words in PROJECTIONS.items() if name.rpartition(".")[2] in words
    }
    projections = {role: named.get(role, named.get("fused", "")) for role in ("query", "key", "value")}
    rest = {name: linear for name, linear in maps.items() if name not in named.values()}
    block = _attention_block(projections["query"], maps, rest)
    inside = {name: linear for name, linear in rest.items() if block and name.startswith(f"{block}.")}
    return projections, inside, {name: linear for name, linear in rest.items() if name not in inside}


def _attention_block(query: str, maps: Maps, rest: Maps) -> str:
    """Name of the smallest module that contains the query and an output map; in BERT not the query's direct parent."""
    block = query.rpartition(".")[0]
    while block:
        if _last_of(sizes(maps[query])[0], {name: m for name, m in rest.items() if name.startswith(f"{block}.")}):
            return block
        block = block.rpartition(".")[0]
    return ""


def _last_of(width: int | None, maps: Maps) -> str:
    """Name of the last map with ``width`` output features, or of the last map if ``width`` is None; "" without one."""
    return next((name for name in reversed(maps) if width in (None, sizes(maps[name])[1])), "")


def attentions(model: nn.Module) -> list[nn.Module]:
    """The modules that call the attention function, one per layer: the parents of the query projections."""
    return [model.get_submodule(name.rpartition(".")[0]) for name in linears(model, "query")]


def replace(model: nn.Module, name: str, module: nn.Module) -> None:
    """Replace the submodule with the dotted ``name`` by ``module``."""
    owner, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(owner), attribute, module)


def drop_unused_modules(model: Any) -> None:
    """Remove the modules that item vectors do not pass through: they get no gradient and must not be counted.

    These are poolers and heads, since ``bench.models.encoders`` does the pooling, and the mask token of pretraining.
    """
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    if getattr(model, "head", None) is not None:
        model.head = nn.Identity()
    for module in model.modules():
        if getattr(module, "mask_token", None) is not None:
            module.mask_token = None
