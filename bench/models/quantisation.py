"""Quantised encoders: the linear maps of their layers in 4 or 8 bit, converted and computed by established libraries.

Embeddings, norms, biases and convolutions stay in 32 bit. The formats are:

* ``bnb-nf4``: bitsandbytes' NormalFloat of 4 bits with a 32-bit scale per 64 weights, as in QLoRA (Dettmers et al.,
  NeurIPS 2023) without its double quantisation;
* ``torchao-int8``: torchao's 8 bits with a 32-bit scale per output feature.

:func:`quantise` converts an encoder. The other functions hide the formats from the rest of the suite: which tensors
store a weight, how many values it stands for, whether a method may train it, and how a quantised model on the meta
device gets memory.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from torch.utils.flop_counter import flop_registry, register_flop_formula

from bench.models.config import Quantisation
from bench.models.structure import replace, targets
from bench.utils.errors import UserError

LIBRARIES: dict[Quantisation, str] = {"bnb-nf4": "bitsandbytes", "torchao-int8": "torchao"}
# Weights that share a scale in bitsandbytes' format.
BLOCK = 64
# Half the widest gap between two of NF4's 16 values, at -0.696 and below (QLoRA, appendix E), plus a rounding margin.
HALF_STEP = 0.153
COMPUTE = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def check_installed(kind: Quantisation) -> None:
    """Check that the library of a format is installed, without importing it.

    Raises:
        UserError: the library is not installed; the message says how to install it.
    """
    library = LIBRARIES[kind]
    if importlib.util.find_spec(library) is None:
        raise UserError(f"--quantise {kind}: {library} is not installed; pip install 'iisan-bench[quantise]'")


def quantise(model: Any, kind: Quantisation, precision: str, device: torch.device | None = None) -> None:
    """Quantise the linear maps of a transformers encoder's layers, in place.

    Args:
        precision: "fp32", "bf16" or "fp16", the precision of the cell; bitsandbytes computes in it for any input.
        device: device that the maps are moved to before conversion, one at a time; None leaves them where they are.
            On the meta device they have sizes and no values.

    Raises:
        UserError: the library is not installed, or the encoder has no such maps (GPT-2's are of another class).
    """
    check_installed(kind)
    # Modules that transformers leaves in 32 bit as well: T5 casts their inputs to the type of their weights.
    kept = set(getattr(model, "_keep_in_fp32_modules", None) or ())
    maps = {
        name: module
        for name, module in targets(model, "all-linear").items()
        if isinstance(module, nn.Linear) and not kept.intersection(name.split("."))
    }
    if not maps:
        raise UserError(f"--quantise {kind}: {type(model).__name__} has no linear maps that can be quantised")
    for name, linear in maps.items():
        linear = linear if device is None else linear.to(device)
        quantised = _nf4(linear, COMPUTE[precision]) if kind == "bnb-nf4" else _int8(linear)
        quantised.register_forward_pre_hook(_cast_input)
        replace(model, name, quantised)
    if kind == "bnb-nf4":
        model.is_loaded_in_4bit = True  # the attribute by which peft recognises a bitsandbytes model


def _cast_input(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Cast the input as autocast does for a linear map: autocast does not know quantised maps and would give 32 bit."""
    kind = args[0].device.type
    return (args[0].to(torch.get_autocast_dtype(kind)),) if torch.is_autocast_enabled(kind) else args


def _nf4(linear: nn.Linear, dtype: torch.dtype) -> nn.Module:
    bnb = _bitsandbytes()
    weight = linear.weight.detach()
    packed, state = bnb.functional.quantize_4bit(weight, blocksize=BLOCK, quant_type="nf4")
    if not weight.is_meta and not _is_close(bnb.functional.dequantize_4bit(packed, state), weight, state.absmax):
        # Seen with bitsandbytes 0.50 on a CPU: its kernel is wrong if the rows' length is no multiple of a block.
        raise UserError(
            f"--quantise bnb-nf4: bitsandbytes computes maps of {linear.in_features} inputs wrongly on this machine; "
            "use torchao-int8"
        )
    settings = {"compress_statistics": False, "quant_type": "nf4"}
    quantised = bnb.nn.Linear4bit(
        linear.in_features, linear.out_features, bias=False, compute_dtype=dtype, device="meta", **settings
    )
    quantised.weight = bnb.nn.Params4bit(
        packed, requires_grad=False, quant_state=state, blocksize=BLOCK, bnb_quantized=True, **settings
    )
    quantised.quant_state = state
    if linear.bias is not None:
        # Otherwise the first forward pass would cast the bias for good, in the middle of a run.
        quantised.bias = nn.Parameter(linear.bias.detach().to(dtype))
    # Otherwise the first forward pass in eval mode repacks the weights for a kernel that has no backward pass.
    quantised.support_avx512bf16_for_cpu = False
    return quantised


def _is_close(restored: Tensor, weight: Tensor, scales: Tensor) -> bool:
    """True if every dequantised weight is the value of the format that is nearest to the original weight."""
    largest = scales.repeat_interleave(BLOCK)[: weight.numel()].view_as(weight)
    return bool(((restored - weight).abs() <= HALF_STEP * largest).all())


def _int8(linear: nn.Linear) -> nn.Module:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quantize_(linear, Int8WeightOnlyConfig())
    linear.weight.requires_grad_(False)
    return linear


def _bitsandbytes() -> Any:
    import bitsandbytes

    product = torch.ops.bitsandbytes.gemm_4bit
    if product not in flop_registry:  # torch's counter would count it as free
        register_flop_formula(product)(_product_flops)
    return bitsandbytes


def _product_flops(inputs: Any, packed: Any, shape: Any, *_: Any, **__: Any) -> int:
    """FLOPs of a product of inputs (..., k) and weights (n, k); a multiplication and an addition count as two."""
    return 2 * prod(inputs) * int(shape[0])


def is_quantised(parameter: Tensor) -> bool:
    """True if the parameter is a quantised weight."""
    return is_traceable_wrapper_subclass(parameter) or getattr(parameter, "quant_state", None) is not None


def storage_tensors(parameter: Tensor) -> list[Tensor]:
    """The tensors that store a parameter or buffer: itself, or the packed values and scales of a quantised weight."""
    if is_traceable_wrapper_subclass(parameter):
        names, _ = parameter.__tensor_flatten__()
        return [getattr(parameter, name) for name in names]
    state = getattr(parameter, "quant_state", None)
    return [parameter] if state is None else [parameter, state.absmax, state.code]


def count_values(parameters: Iterable[Tensor]) -> int:
    """Number of values that parameters stand for; a packed weight counts with its unpacked size."""
    states = ((p, getattr(p, "quant_state", None)) for p in parameters)
    return sum(p.numel() if state is None else state.shape.numel() for p, state in states)


def check_adapted(model: nn.Module, trained: Iterable[Tensor]) -> None:
    """Check that a method can train what it wants to train in a quantised model; other models always pass.

    Raises:
        UserError: the method trains quantised weights, trains biases that bitsandbytes keeps in 16 bit, or has made
            new tensors with the integer type of the packed weights.
    """
    if not any(is_quantised(p) for p in model.parameters()):
        return
    if any(t.dtype == torch.uint8 and not is_quantised(t) for t in (*model.parameters(), *model.buffers())):
        raise UserError("reads packed weights as plain values; leave out the method or --quantise")
    for parameter in trained:
        if is_quantised(parameter):
            raise UserError("trains quantised weights; leave out the method or --quantise")
        if parameter.dtype != torch.float32:
            raise UserError("trains biases that bitsandbytes keeps in 16 bit; use --precision fp32, or torchao-int8")


def to_empty(model: nn.Module, device: torch.device) -> None:
    """Give a model from the meta device uninitialised memory, as ``model.to_empty`` does, quantised weights included.

    Quantised weights become plain parameters: the libraries' parameter classes cannot be made under a fake-tensor
    mode, and their layers do not need them.
    """
    weights = [
        (module, name, parameter)
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if is_quantised(parameter)
    ]
    for module, name, _ in weights:
        setattr(module, name, None)
    model.to_empty(device=device)
    for module, name, parameter in weights:
        setattr(module, name, _empty_weight(parameter, device))


def _empty_weight(parameter: Any, device: torch.device) -> nn.Parameter:
    def empty(tensor: Tensor) -> Tensor:
        return torch.empty(tensor.shape, dtype=tensor.dtype, device=device)

    if is_traceable_wrapper_subclass(parameter):
        names, context = parameter.__tensor_flatten__()
        inner = {name: empty(getattr(parameter, name)) for name in names}
        whole = type(parameter).__tensor_unflatten__(inner, context, parameter.shape, parameter.stride())
        return nn.Parameter(whole, requires_grad=False)
    state = parameter.quant_state
    state.absmax, state.code = empty(state.absmax), empty(state.code)
    weight: Any = nn.Parameter(empty(parameter), requires_grad=False)
    weight.quant_state = state
    return weight
