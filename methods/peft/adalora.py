"""AdaLoRA: allocates ranks among all maps of an encoder during training (Zhang et al., ICLR 2023).

peft scores every singular value by weights and gradients, and masks those that exceed a falling budget, which goes from
``init_r`` per map to ``target_r`` on average. peft's allocator must be called after every step and must know the number
of steps. Its state is kept in buffers, so that checkpoints contain it. peft adds the orthogonal regularisation to a
loss that its model computes; here it is added to the training loss, with ``orth_reg_weight``.

Each encoder has its own budget of ranks. If validation chooses an epoch before the last masking, the chosen weights
have more ranks than the target, because those weights were validated. Trained parameters are counted at the start.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.utils.errors import UserError
from methods.base import Saver, Step, StepHook

TYPE = "ADALORA"
_FORBIDDEN = {
    "total_step": "comes from the budget",
    "rank_pattern": "is the result of training",
    "r": "has no effect; init_r and target_r are its ranks",
    "init_lora_weights": "has no effect; singular values start at zero",
}
_COUNTS = ("target_r", "init_r", "tinit", "tfinal", "deltaT")


def check_options(options: Mapping[str, Any], config: Any) -> None:
    """Check options beyond the checks of peft.

    Args:
        options: options that the user has set.
        config: peft's configuration with these options.

    Raises:
        UserError: an option has no effect or is out of range; the message names it.
    """
    for name, reason in _FORBIDDEN.items():
        if name in options:
            raise UserError(f"option peft: {TYPE}: {name} {reason}")
    if not 1 <= config.target_r < config.init_r:
        raise UserError(
            f"option peft: {TYPE}: target_r must be at least 1 and below init_r, "
            f"got {config.target_r} and {config.init_r}"
        )
    if min(config.tinit, config.tfinal) < 0 or config.deltaT < 1:
        raise UserError(f"option peft: {TYPE}: tinit and tfinal must be at least 0, deltaT at least 1")


def placeholder(options: Mapping[str, Any]) -> int:
    """Number of steps that peft accepts in a configuration; the real number is set when training begins.

    Raises:
        UserError: an option that must be a whole number is not.
    """
    for name in _COUNTS:
        if type(options.get(name, 0)) is not int:
            raise UserError(f"option peft: {TYPE}: {name} must be a whole number, got {options[name]!r}")
    return int(options.get("tinit", 0)) + int(options.get("tfinal", 0)) + 1


def check_budget(config: Any, steps: int | None) -> str:
    """Error message if ranks cannot be allocated over this number of steps (None: unknown), else ""."""
    if steps is None:
        return f"{TYPE} allocates ranks over a known number of steps; use a budget of epochs or steps"
    if config.tinit + config.tfinal >= steps:
        return f"{TYPE}: tinit {config.tinit} and tfinal {config.tfinal} leave none of the {steps} steps for allocation"
    return ""


class Allocation(StepHook):
    """Hook that calls peft's rank allocator after every step and keeps its state in buffers.

    Args:
        tuner: peft's ``AdaLoraModel``.
    """

    def __init__(self, tuner: Any):
        super().__init__()
        # In a tuple, so that the modules are not registered a second time: the encoder has them already.
        self._tuner = (tuner,)
        self._config = tuner.peft_config[tuner.trainable_adapter_name]
        self._names = [name for name, p in tuner.model.named_parameters() if "lora_" in name and p.requires_grad]
        for index, name in enumerate(self._names):
            like = tuner.model.get_parameter(name)
            for kind in ("sensitivity", "uncertainty"):
                self.register_buffer(f"{kind}_{index}", torch.zeros_like(like, requires_grad=False))
            if "lora_E" in name:
                self.register_buffer(f"rank_{index}", torch.zeros_like(like, dtype=torch.bool, requires_grad=False))

    def reset(self) -> None:
        """Clear all scores and masks."""
        for buffer in self.buffers():
            buffer.zero_()
        self._config.rank_pattern = None

    def after(self, step: Step) -> None:
        """Update the scores and, in training, mask the singular values that exceed the budget of this step."""
        (tuner,), config = self._tuner, self._config
        during = step.number > 0 and step.of > config.tinit + config.tfinal
        number = step.number if during else 0
        config.total_step = step.of if during else placeholder(vars(config))
        last = config.total_step - config.tfinal
        if number < last and not step.updated:
            return
        kept = self._buffers_of("rank")
        if number > last and config.rank_pattern is None:  # training continues from a checkpoint
            config.rank_pattern = {name: rank.view(-1).tolist() for name, rank in kept.items()}
        self._lend(tuner.rankallocator)
        tuner.update_and_allocate(number)
        self._take_back(tuner.rankallocator)
        if number == last:
            for name, rank in kept.items():
                rank.copy_(tuner.model.get_parameter(name) != 0)

    def _lend(self, allocator: Any) -> None:
        allocator.exp_avg_ipt = self._buffers_of("sensitivity")
        allocator.exp_avg_unc = self._buffers_of("uncertainty")
        # peft resets the averages of names that are missing here; the values are overwritten before they are read.
        allocator.ipt = dict(allocator.exp_avg_ipt)

    def _take_back(self, allocator: Any) -> None:
        for kind, averages in (("sensitivity", allocator.exp_avg_ipt), ("uncertainty", allocator.exp_avg_unc)):
            kept = self._buffers_of(kind)
            for name, value in averages.items():
                kept[name].copy_(value)
        allocator.reset_ipt()

    def _buffers_of(self, kind: str) -> dict[str, Tensor]:
        """Buffers of a kind, by name of the parameter that they belong to."""
        buffers, names = dict(self.named_buffers()), {f"{kind}_{i}": name for i, name in enumerate(self._names)}
        return {name: buffers[buffer] for buffer, name in names.items() if buffer in buffers}

    def penalty(self) -> Tensor:
        """Orthogonal regularisation: mean over maps of ‖PᵀP − I‖ (Frobenius), times ``orth_reg_weight``."""
        (tuner,) = self._tuner
        named = [(name, tuner.model.get_parameter(name)) for name in self._names if "lora_E" not in name]
        products = [p @ p.T if "lora_A" in name else p.T @ p for name, p in named]
        distances = [(product - torch.eye(len(product), device=product.device)).norm() for product in products]
        return self._config.orth_reg_weight * torch.stack(distances).mean()

    def save(self, write: Saver, folder: Path) -> None:
        """Write the weights with their current ranks, which may be those of an earlier epoch."""
        self._config.rank_pattern = ranks(self._tuner[0].model)
        write(folder)


def ranks(model: torch.nn.Module) -> dict[str, list[bool]]:
    """For every map, which singular values are not masked: peft's ``rank_pattern``."""
    return {name: (p.detach() != 0).view(-1).tolist() for name, p in model.named_parameters() if "lora_E" in name}
