"""AdaLoRA: ranks are given out among all maps of an encoder while it trains (Zhang et al., ICLR 2023).

peft scores every singular value by the weights and gradients around it and masks those that the falling budget leaves
out, from ``init_r`` a map to ``target_r`` on the mean; it wants to be told of every step and of their number. How far
it has come is kept in buffers here, so that a checkpoint has it. The orthogonal regularisation is included: peft adds
it to a loss that its model computes, here it is added to the training loss, with ``orth_reg_weight``.

Each encoder has a budget of ranks of its own. Where validation chooses an epoch before the last masking, the chosen
weights have more ranks than the target: they are what was validated. Trained values are counted as at the start.
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
_OTHERS = {
    "total_step": "comes from the budget",
    "rank_pattern": "is what it finds",
    "r": "has no effect; init_r and target_r are its ranks",
}
_COUNTS = ("target_r", "init_r", "tinit", "tfinal", "deltaT")


def check_options(options: Mapping[str, Any], config: Any) -> None:
    """Whether ranks can be given out with these options.

    Args:
        options: those that were given.
        config: peft's configuration made from them.

    Raises:
        UserError: which cannot be.
    """
    for name, why in _OTHERS.items():
        if name in options:
            raise UserError(f"option peft: {TYPE}: {name} {why}")
    if not 1 <= config.target_r < config.init_r:
        raise UserError(
            f"option peft: {TYPE}: target_r must be at least 1 and below init_r, "
            f"got {config.target_r} and {config.init_r}"
        )
    if min(config.tinit, config.tfinal) < 0 or config.deltaT < 1:
        raise UserError(f"option peft: {TYPE}: tinit and tfinal must be at least 0, deltaT at least 1")


def placeholder(options: Mapping[str, Any]) -> int:
    """A number of steps that peft accepts; the true one is known when training begins.

    Raises:
        UserError: an option that counts and is no whole number.
    """
    for name in _COUNTS:
        if type(options.get(name, 0)) is not int:
            raise UserError(f"option peft: {TYPE}: {name} must be a whole number, got {options[name]!r}")
    return int(options.get("tinit", 0)) + int(options.get("tfinal", 0)) + 1


def check_budget(config: Any, steps: int | None) -> str:
    """Why ranks cannot fall within so many steps; None: their number is not known beforehand."""
    if steps is None:
        return f"{TYPE} gives its ranks out over a known number of steps; use a budget of epochs or steps"
    if config.tinit + config.tfinal >= steps:
        return f"{TYPE}: tinit {config.tinit} and tfinal {config.tfinal} leave none of {steps} steps between"
    return ""


class Allocation(StepHook):
    """Tells peft's allocator of every step.

    Args:
        tuner: peft's ``AdaLoraModel``.
    """

    def __init__(self, tuner: Any):
        super().__init__()
        # A tuple, not an attribute of its own: the encoder has these modules already.
        self._tuner = (tuner,)
        self._config = tuner.peft_config[tuner.trainable_adapter_name]
        self._names = [name for name, p in tuner.model.named_parameters() if "lora_" in name and p.requires_grad]
        for index, name in enumerate(self._names):
            like = tuner.model.get_parameter(name)
            for what in ("sensitivity", "uncertainty"):
                self.register_buffer(f"{what}_{index}", torch.zeros_like(like, requires_grad=False))
            if "lora_E" in name:
                self.register_buffer(f"rank_{index}", torch.zeros_like(like, dtype=torch.bool, requires_grad=False))

    def reset(self) -> None:
        """No score and no mask."""
        for buffer in self.buffers():
            buffer.zero_()
        self._config.rank_pattern = None

    def after(self, step: Step) -> None:
        """Scores, and masks what the budget of this step leaves out; a step outside of training scores alone."""
        (tuner,), config = self._tuner, self._config
        during = step.number > 0 and step.of > config.tinit + config.tfinal
        number = step.number if during else 0
        config.total_step = step.of if during else placeholder(vars(config))
        last = config.total_step - config.tfinal
        if number < last and not step.updated:
            return
        kept = self._buffers_of("rank")
        if number > last and config.rank_pattern is None:  # training goes on from a checkpoint
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
        allocator.ipt = dict(allocator.exp_avg_ipt)  # peft starts afresh unless it is there; it is written before read

    def _take_back(self, allocator: Any) -> None:
        for what, found in (("sensitivity", allocator.exp_avg_ipt), ("uncertainty", allocator.exp_avg_unc)):
            kept = self._buffers_of(what)
            for name, value in found.items():
                kept[name].copy_(value)
        allocator.reset_ipt()

    def _buffers_of(self, what: str) -> dict[str, Tensor]:
        there, names = dict(self.named_buffers()), {f"{what}_{i}": name for i, name in enumerate(self._names)}
        return {name: there[buffer] for buffer, name in names.items() if buffer in there}

    def penalty(self) -> Tensor:
        """How far the singular vectors are from orthogonal: mean over maps of ‖PᵀP − I‖, weighted."""
        (tuner,) = self._tuner
        named = [(name, tuner.model.get_parameter(name)) for name in self._names if "lora_E" not in name]
        products = [p @ p.T if "lora_A" in name else p.T @ p for name, p in named]
        apart = [(product - torch.eye(len(product), device=product.device)).norm() for product in products]
        return self._config.orth_reg_weight * torch.stack(apart).mean()

    def save(self, write: Saver, folder: Path) -> None:
        """Writes with the ranks that the weights have now, which may be those of an earlier epoch."""
        self._config.rank_pattern = ranks(self._tuner[0].model)
        write(folder)


def ranks(model: torch.nn.Module) -> dict[str, list[bool]]:
    """Per map which of its singular values are not masked, as peft keeps it."""
    return {name: (p.detach() != 0).view(-1).tolist() for name, p in model.named_parameters() if "lora_E" in name}
