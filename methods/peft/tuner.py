"""Any tuner of the installed peft, given by its type and the options of its configuration class.

    peft = { type = "LOKR", target = ["query", "value"], r = 4 }

``target`` names roles, which ``bench.models.structure`` finds in each encoder; module names of BERT do not fit ViT.
``peft_tuners.json`` lists the types that have been tried with this suite, and why the others do not run.
"""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, nn

from bench.models import families
from bench.models.structure import Target, targets
from bench.utils.errors import UserError
from bench.utils.text import did_you_mean
from methods.base import Adaptation, Encoder, EncoderMethod, Saver
from methods.peft import adalora
from methods.peft.module_names import check_names
from methods.peft.saving import Residual, save_tuner

ROLES = typing.get_args(Target)
# Default target roles of types that are defined for certain places; all other types have those of LoRA.
DEFAULT_ROLES: dict[str, tuple[str, ...]] = {"IA3": ("key", "value", "mlp-output"), "LN_TUNING": ("norm",)}
# Types that put vectors in front of the token embeddings, and all types with virtual tokens; peft has them for text.
EMBEDDED = ("PROMPT_TUNING", "P_TUNING")
PROMPTS = (*EMBEDDED, "PREFIX_TUNING", "CARTRIDGE")
COUNTED = ("r", "num_virtual_tokens", "subspace_rank", "effective_rank")
LAYERS = ("layers_to_transform", "layers_pattern")  # peft ignores them if modules are named in full
# Initialisations of LoRA that peft replaces by the default one, or rejects, if nothing was computed before.
FROM_DATA = {
    "eva": "activations of the training data, which are not computed before training",
    "corda": "activations of the training data, which are not computed before training",
    "lora_ga": "gradients of the training data, which are not computed before training",
}
UNFIT = {
    "ADAPTION_PROMPT": "peft supports it only for the attention of a few decoders",
    "CPT": "peft supports it only for causal language models",
    "MULTITASK_PROMPT_TUNING": "it needs a task number with every input",
    "POLY": "it needs a task number with every input",
    "SHADOW": "it supports only the layers of decoders",
    "XLORA": "it mixes adapters that were trained before",
}


@dataclass(frozen=True)
class Tuner(EncoderMethod):
    """A tuner of peft.

    Attributes:
        peft: ``type`` (peft's name), ``target`` (roles), and options of peft's configuration class.
        lr: learning rate of the tuner.
    """

    peft: dict[str, Any] = field(default_factory=lambda: {"type": "IA3"})
    lr: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        options = self._options()
        if self._type in PROMPTS:
            if "target" in self.peft:
                raise UserError(f"option peft: {self._type} has no target")
            if not isinstance(options.get("num_virtual_tokens"), int) or options["num_virtual_tokens"] < 1:
                raise UserError(f"option peft: {self._type} needs num_virtual_tokens of at least 1")
        elif options.get("target_modules") is None:
            self._roles()
            for name in LAYERS:
                if options.get(name) is not None:
                    raise UserError(f"option peft: {name} has no effect with target; use it with target_modules")
            options["target_modules"] = ["anything"]
        elif "target" in self.peft:
            raise UserError("option peft: target and target_modules exclude each other")
        config = self._config(**options)
        if self._type == adalora.TYPE:
            adalora.check_options(options, config)
        if "target_svd_config" in options:
            raise UserError(f"option peft: {self._type}: target_svd_config has no effect in peft; use rank_pattern")
        if options.get("alora_invocation_tokens") is not None:
            raise UserError(f"option peft: {self._type}: alora_invocation_tokens works only in causal language models")
        start = str(options.get("init_lora_weights", "")).lower()
        if start in FROM_DATA:
            raise UserError(f"option peft: {self._type}: init_lora_weights {start} needs {FROM_DATA[start]}")

    def counted(self) -> tuple[str, ...]:
        """Ranks and numbers of virtual tokens among the given options of peft."""
        return tuple(f"peft.{name}" for name in COUNTED if type(self.peft.get(name)) is int)

    def check_budget(self, steps: int | None) -> str:
        """Error message if AdaLoRA cannot allocate ranks over this number of steps (None: unknown), else ""."""
        return adalora.check_budget(self._config(**self._options()), steps) if self._type == adalora.TYPE else ""

    @property
    def _type(self) -> str:
        return str(self.peft.get("type", "")).upper()

    def _options(self) -> dict[str, Any]:
        """Options for peft's configuration class, with checked names."""
        from peft import PeftConfig
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

        known = {kind.value: cls for kind, cls in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
        if not self._type:
            raise UserError("option peft: type is missing; list --peft shows the types")
        if self._type not in known:
            raise UserError(f"option peft: unknown type {self.peft.get('type')!r}{did_you_mean(self._type, known)}")
        if self._type in UNFIT:
            raise UserError(f"option peft: {self._type}: {UNFIT[self._type]}")
        common = {f.name for f in dataclasses.fields(PeftConfig)}
        fields = {f.name for f in dataclasses.fields(known[self._type])} - common
        options = {name: value for name, value in self.peft.items() if name not in ("type", "target")}
        for name in options:
            if name not in fields:
                raise UserError(f"option peft: {self._type} has no option {name!r}{did_you_mean(name, fields)}")
        return options

    def _roles(self) -> list[Target]:
        roles: Any = self.peft.get("target", DEFAULT_ROLES.get(self._type, ("query", "value")))
        if not isinstance(roles, str | list | tuple):
            raise UserError(f"option peft: target must be a role or a list of roles, got {roles!r}")
        roles = [roles] if isinstance(roles, str) else list(roles)
        for role in roles:
            if role not in ROLES:
                raise UserError(f"option peft: unknown target {role!r}{did_you_mean(str(role), ROLES)}")
        if not roles:
            raise UserError("option peft: target is empty")
        return roles

    def _config(self, **options: Any) -> Any:
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

        if self._type == adalora.TYPE:
            options = {"total_step": adalora.placeholder(options), **options}
        cls = next(cls for kind, cls in PEFT_TYPE_TO_CONFIG_MAPPING.items() if kind.value == self._type)
        try:
            return cls(**options)
        except (TypeError, ValueError, ImportError) as error:
            raise UserError(f"option peft: {self._type}: {' '.join(str(error).split())}") from error

    def check_encoder(self, encoder: Encoder) -> None:
        """Check that every name in the options acts in the encoder.

        Raises:
            UserError: some names match nothing; the message lists them.
        """
        options = self._options()
        if self._type in PROMPTS or options.get("target_modules") is not None:
            check_names(options, self._config(**options), encoder.model)

    def adapt(self, encoder: Encoder) -> Adaptation:
        """Put the tuner into the encoder.

        Raises:
            UserError: the encoder has no module of a role, or peft rejects the options or the encoder.
        """
        wrapped = self._add_prompt(encoder) if self._type in PROMPTS else self._inject(encoder)
        parameters = [p for p in wrapped.parameters() if p.requires_grad]
        save: Saver = Residual(wrapped).save if Residual.fits(wrapped) else partial(save_tuner, wrapped)
        if self._type == adalora.TYPE:
            allocation = adalora.Allocation(wrapped.base_model)
            encoder.add_module("allocation", allocation)
            save = partial(allocation.save, save)
        return Adaptation(parameters, self.lr, _count_adapted(wrapped), save)

    def _inject(self, encoder: Encoder) -> nn.Module:
        from transformers.pytorch_utils import Conv1D

        options = self._options()
        if options.get("target_modules") is None:
            modules = {name: m for role in self._roles() for name, m in targets(encoder.model, role).items()}
            options["target_modules"] = list(modules)
            config = self._config(**options)
            if hasattr(config, "fan_in_fan_out"):
                config.fan_in_fan_out = any(isinstance(module, Conv1D) for module in modules.values())
            if hasattr(config, "feedforward_modules") and config.feedforward_modules is None:
                config.feedforward_modules = {
                    name for role in self._roles() if role.startswith("mlp") for name in targets(encoder.model, role)
                }
        else:
            config = self._config(**options)
        check_names(self._options(), config, encoder.model)
        wrapped: Any = self._wrap(encoder.model, config)
        # The adapted layers are inside the encoder's model. Modules that peft keeps outside of it must move with the
        # encoder too, but must be registered once: fake tensors cannot move a module that occurs twice.
        registered = {id(tensor) for tensor in _tensors(encoder.model)}
        for name, child in wrapped.base_model.named_children():
            if child is not encoder.model and any(id(tensor) not in registered for tensor in _tensors(child)):
                encoder.add_module(f"tuner_{name}", child)
        return wrapped

    def _add_prompt(self, encoder: Encoder) -> nn.Module:
        if encoder.modality != "text":
            raise UserError(f"{self._type}: peft supports it only for text; use --modality text, or the method prefix")
        config = self._config(**self._options())
        config.task_type = "FEATURE_EXTRACTION"
        check_names(self._options(), config, encoder.model)
        wrapped = self._wrap(encoder.model, config)
        encoder.model = Prompted(wrapped, config.num_virtual_tokens, self._type in EMBEDDED)
        return wrapped

    def _wrap(self, model: nn.Module, config: Any) -> nn.Module:
        from peft import get_peft_model

        try:
            return get_peft_model(model, config)
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            raise UserError(f"{self._type} does not fit {type(model).__name__}: {' '.join(text.split())}") from error


class Prompted(nn.Module):
    """Text encoder with peft's virtual tokens, which are removed from the output before pooling.

    Args:
        wrapped: peft's model.
        positions: number of virtual tokens.
        embedded: True if virtual tokens pass through the layers as tokens do; False if they are only keys and values.
    """

    def __init__(self, wrapped: nn.Module, positions: int, embedded: bool):
        super().__init__()
        self.wrapped = wrapped
        self.positions = positions
        self.embedded = embedded

    @property
    def config(self) -> Any:
        """Configuration of the encoder."""
        return self.wrapped.config

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        """Output of the encoder, with last_hidden_state (n, tokens, width) of the real tokens.

        Raises:
            UserError: the encoder has too few positions, or gradient checkpointing would drop the virtual tokens.
        """
        if not self.embedded and any(getattr(m, "gradient_checkpointing", False) for m in self.wrapped.modules()):
            raise UserError("gradient_checkpointing: transformers drops the keys and values of peft; turn it off")
        limit = families.positions(self.config)
        if limit is not None and input_ids.shape[1] + self.positions > limit:
            need = f"{self.positions} virtual tokens and titles of {input_ids.shape[1]}"
            raise UserError(f"{need} are more than the encoder's {limit}")
        out = self.wrapped(input_ids=input_ids, attention_mask=attention_mask)
        if self.embedded:
            out.last_hidden_state = out.last_hidden_state[:, self.positions :]
        return out


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _count_adapted(wrapped: nn.Module) -> int:
    """Number of modules that peft has adapted; the prompt of a model counts as one."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    if getattr(wrapped, "prompt_encoder", None):
        return 1
    return sum(isinstance(module, BaseTunerLayer) for module in wrapped.modules())
