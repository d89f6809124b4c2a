"""Encoders whose weights are quantised: the linear maps of their layers in 4 or 8 bit, by the libraries people use.

Embeddings, norms, biases and convolutions stay as they are. The conversion and the arithmetic are the libraries':

* ``bnb-nf4``: bitsandbytes' NormalFloat of 4 bits with a 32-bit scale per 64 weights, as in QLoRA (Dettmers et al.,
  NeurIPS 2023) without its double quantisation;
* ``torchao-int8``: torchao's 8 bits with a 32-bit scale per output feature.

What is in memory of such weights, and how many values they stand for, ``packed`` knows.
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
BLOCK = 64
# Half the widest gap between two of NF4's 16 values, those below -0.696 (QLoRA, appendix E), and room for rounding.
HALF_STEP = 0.153
COMPUTE = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def check_installed(kind: Quantisation) -> None:
    """Looks whether there is what quantises, without importing it.

    Raises:
        UserError: it is not installed.
    """
    library = LIBRARIES[kind]
    if importlib.util.find_spec(library) is None:
        raise UserError(f"--quantise {kind}: {library} is not installed; pip install 'iisan-bench[quantise]'")


def quantise(model: Any, kind: Quantisation, precision: str, device: torch.device | None = None) -> None:
    """Quantises the linear maps of a transformers encoder's layers, in place.

    Args:
        precision: of the cell; bitsandbytes computes in it, whatever comes in.
        device: where the maps go, one at a time in 32 bit; None: they stay where they are. One on the meta device has
            sizes and no values.

    Raises:
        UserError: the library is not installed, or the encoder has no such maps (GPT-2's are of another class).
    """
    check_installed(kind)
    # What transformers itself leaves in 32 bit: T5 casts what goes into these maps to the type of their weights.
    kept = set(getattr(model, "_keep_in_fp32_modules", None) or ())
    maps = {
        name: module
        for name, module in targets(model, "all-linear").items()
        if isinstance(module, nn.Linear) and not kept.intersection(name.split("."))
    }
    if not maps:
        raise UserError(f"--quantise {kind}: {type(model).__name__} has no linear maps that it fits")
    for name, linear in maps.items():
        linear = linear if device is None else linear.to(device)
        made = _nf4(linear, COMPUTE[precision]) if kind == "bnb-nf4" else _int8(linear)
        made.register_forward_pre_hook(_as_autocast)
        replace(model, name, made)
    if kind == "bnb-nf4":
        model.is_loaded_in_4bit = True  # transformers' word for it, by which peft takes its layers for bitsandbytes


def _as_autocast(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Casts what goes in as autocast does to a linear map; it does not know these, and 32 bit would come out."""
    kind = args[0].device.type
    return (args[0].to(torch.get_autocast_dtype(kind)),) if torch.is_autocast_enabled(kind) else args


def _nf4(linear: nn.Linear, dtype: torch.dtype) -> nn.Module:
    bnb = _bitsandbytes()
    weight = linear.weight.detach()
    packed, state = bnb.functional.quantize_4bit(weight, blocksize=BLOCK, quant_type="nf4")
    if not weight.is_meta and not _is_close(bnb.functional.dequantize_4bit(packed, state), weight, state.absmax):
        # Seen with 0.50 on a CPU, where rows are no multiple of a block: its kernel lets none reach into the next row.
        raise UserError(
            f"--quantise bnb-nf4: bitsandbytes gets maps of {linear.in_features} inputs wrong on this machine; "
            "use torchao-int8"
        )
    settings = {"compress_statistics": False, "quant_type": "nf4"}
    made = bnb.nn.Linear4bit(
        linear.in_features, linear.out_features, bias=False, compute_dtype=dtype, device="meta", **settings
    )
    made.weight = bnb.nn.Params4bit(
        packed, requires_grad=False, quant_state=state, blocksize=BLOCK, bnb_quantized=True, **settings
    )
    made.quant_state = state
    if linear.bias is not None:
        # The forward pass would cast it for good, in the middle of a run.
        made.bias = nn.Parameter(linear.bias.detach().to(dtype))
    # Else the first forward pass in eval mode packs the weights anew, for a kernel that has no backward pass.
    made.support_avx512bf16_for_cpu = False
    return made


def _is_close(found: Tensor, weight: Tensor, scales: Tensor) -> bool:
    """Whether every weight is the value of the format that is next to it."""
    largest = scales.repeat_interleave(BLOCK)[: weight.numel()].view_as(weight)
    return bool(((found - weight).abs() <= HALF_STEP * largest).all())


def _int8(linear: nn.Linear) -> nn.Module:
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quantize_(linear, Int8WeightOnlyConfig())
    linear.weight.requires_grad_(False)
    return linear


def _bitsandbytes() -> Any:
    import bitsandbytes

    product = torch.ops.bitsandbytes.gemm_4bit
    if product not in flop_registry:  # to torch's counter it would be free
        register_flop_formula(product)(_product_flops)
    return bitsandbytes


def _product_flops(inputs: Any, packed: Any, shape: Any, *_: Any, **__: Any) -> int:
    """Of inputs (..., k) and weights (n, k), a multiplication and an addition as two."""
    return 2 * prod(inputs) * int(shape[0])


def is_quantised(parameter: Tensor) -> bool:
    """Whether the parameter is a quantised weight."""
    return is_traceable_wrapper_subclass(parameter) or getattr(parameter, "quant_state", None) is not None


def parts(parameter: Tensor) -> list[Tensor]:
    """What is in memory of a parameter or buffer: itself, or the numbers and scales of a quantised weight."""
    if is_traceable_wrapper_subclass(parameter):
        names, _ = parameter.__tensor_flatten__()
        return [getattr(parameter, name) for name in names]
    state = getattr(parameter, "quant_state", None)
    return [parameter] if state is None else [parameter, state.absmax, state.code]


def count_values(parameters: Iterable[Tensor]) -> int:
    """How many weights there are, packed ones included."""
    states = ((p, getattr(p, "quant_state", None)) for p in parameters)
    return sum(p.numel() if state is None else state.shape.numel() for p, state in states)


def check_adapted(model: nn.Module, trained: Iterable[Tensor]) -> None:
    """Looks at a quantised model that a method has adapted, and at what the method wants to train of it.

    Raises:
        UserError: weights that are quantised, biases that bitsandbytes keeps in 16 bit, or something of the method's
            own that has taken its type from packed weights and holds no fractions.
    """
    if not any(is_quantised(p) for p in model.parameters()):
        return
    if any(t.dtype == torch.uint8 and not is_quantised(t) for t in (*model.parameters(), *model.buffers())):
        raise UserError("takes packed weights for numbers; leave the method out, or --quantise")
    for parameter in trained:
        if is_quantised(parameter):
            raise UserError("trains weights that are quantised; leave the method out, or --quantise")
        if parameter.dtype != torch.float32:
            raise UserError("trains biases that bitsandbytes keeps in 16 bit; use --precision fp32, or torchao-int8")


def to_empty(model: nn.Module, device: torch.device) -> None:
    """As ``model.to_empty``, of a model with quantised weights too; they are parameters of no class of their own then.

    Under a fake-tensor mode the libraries' classes cannot be made, and their layers do not ask for them.
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
        setattr(module, name, _emptied(parameter, device))


def _emptied(parameter: Any, device: torch.device) -> nn.Parameter:
    def empty(tensor: Tensor) -> Tensor:
        return torch.empty(tensor.shape, dtype=tensor.dtype, device=device)

    if is_traceable_wrapper_subclass(parameter):
        names, context = parameter.__tensor_flatten__()
        inner = {name: empty(getattr(parameter, name)) for name in names}
        whole = type(parameter).__tensor_unflatten__(inner, context, parameter.shape, parameter.stride())
        return nn.Parameter(whole, requires_grad=False)
    state = parameter.quant_state
    state.absmax, state.code = empty(state.absmax), empty(state.code)
    made: Any = nn.Parameter(empty(parameter), requires_grad=False)
    made.quant_state = state
    return made
