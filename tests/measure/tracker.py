"""torch's own tracker of memory, which the account is held against."""

from __future__ import annotations

from torch import nn
from torch.distributed._tools.mem_tracker import MemTracker


class Tracker(MemTracker):  # type: ignore[no-untyped-call]
    """Without the hooks on gradients, which fail on frozen parameters; they serve its split and not its sum."""

    def _track_module_params_and_buffers(self, module: nn.Module, install_grad_hooks: bool = True) -> tuple[int, int]:
        return super()._track_module_params_and_buffers(module, install_grad_hooks=False)
