"""Checks of the NVIDIA driver, and of whether torch can use the device that the matrix names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from bench.commands.doctor.finding import Finding, Level, ok, unknown
from bench.commands.doctor.gpu import examine_card, no_slice, unknown_card
from bench.measure.nvml_device import DeviceNotFoundError, SliceNotNamedError, find_device

# NVML's codes for a machine without a driver: driver not loaded, library not found.
_NO_DRIVER = frozenset({9, 12})
_DRIVER_EFFECT = (
    "nothing is measured by NVML: memory of the process, utilisation, power, energy and throttling stay empty"
)
# The fix if a run on the CPU is intended: the option states the intention.
_RUN_ON_CPU = "python run_bench.py run --device cpu"
_CPU_EFFECT = "times and memory are of the CPU: comparable with each other, not with a GPU"


@dataclass(frozen=True)
class TorchDevices:
    """CUDA devices as torch reports them.

    Attributes:
        cuda: CUDA version that torch was built for; None for a build without CUDA.
        devices: number of devices that torch sees.
        uuid, name: UUID and name of the device that the matrix runs on; None on the CPU.
        error: error of torch when it uses that device; empty if the device works.
    """

    cuda: str | None
    devices: int
    uuid: str | None = None
    name: str | None = None
    error: str = ""


def device_index(wanted: str, devices: int) -> int | None:
    """CUDA index of the device that a matrix names; None for the CPU.

    Args:
        wanted: ``device`` of the matrix: auto, cpu, cuda or cuda:N.
        devices: number of devices that torch sees.
    """
    if wanted == "cpu" or (wanted == "auto" and not devices):
        return None
    return 0 if wanted == "auto" else int(wanted.partition(":")[2] or 0)


def examine_driver(wanted: str, seen: TorchDevices, variables: Mapping[str, str], pynvml: Any = None) -> list[Finding]:
    """Findings on the driver, on the device, and on the card that the matrix runs on.

    Args:
        wanted: ``device`` of the matrix: auto, cpu, cuda or cuda:N.
        seen: devices that torch sees.
        variables: the environment; CUDA_VISIBLE_DEVICES and CUDA_DEVICE_ORDER are read.
        pynvml: the NVML module; None for ``pynvml`` of nvidia-ml-py.
    """
    index = device_index(wanted, seen.devices)
    card_index = index if index is not None and index < seen.devices else None
    try:
        nvml = pynvml if pynvml is not None else import_module("pynvml")
    except ImportError:
        why = "nvidia-ml-py is not installed"
        first = unknown("driver", why, _DRIVER_EFFECT, "pip install nvidia-ml-py")
        return [first, device(wanted, seen, None, variables), *([] if card_index is None else unknown_card(why))]
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        first = no_driver(error, wanted, seen.devices)
        rest = [] if card_index is None else unknown_card(f"NVML: {error}")
        return [first, device(wanted, seen, None, variables), *rest]
    try:
        cards, first = _driver(nvml)
        rest = [] if card_index is None else _card(nvml, card_index, seen.uuid, variables)
        return [first, device(wanted, seen, cards, variables), *rest]
    finally:
        nvml.nvmlShutdown()


def no_driver(error: Any, wanted: str, devices: int) -> Finding:
    """Finding if NVML cannot be opened; the check of the device decides whether that stops the run."""
    if getattr(error, "value", None) in _NO_DRIVER:
        if wanted == "cpu":
            return ok("driver", f"none ({error}), and the matrix names the CPU")
        # If torch sees a GPU, or the matrix names one, nvidia-smi shows what is missing.
        mend = "nvidia-smi" if devices or wanted != "auto" else _RUN_ON_CPU
        return Finding("driver", "warning", f"none ({error})", _DRIVER_EFFECT, mend)
    # After an update, the loaded driver and its library differ until the next reboot.
    level: Level = "warning" if wanted == "cpu" else "wrong"
    return Finding("driver", level, f"does not answer: {error}", _DRIVER_EFFECT, "sudo reboot")


def device(wanted: str, seen: TorchDevices, cards: int | None, variables: Mapping[str, str]) -> Finding:
    """Finding on the device that cells run on, and whether it works.

    Args:
        cards: number of cards that NVML sees; None if unknown.
    """
    index = device_index(wanted, seen.devices)
    if wanted == "cpu":
        return ok("device", "cpu, as the matrix says")
    if index is not None and index < seen.devices:
        if seen.error:
            what = f"cuda:{index} cannot be used: {seen.error}"
            return Finding("device", "wrong", what, "every cell fails", f"nvidia-smi -i {index} -q -d COMPUTE,MEMORY")
        return ok("device", f"cuda:{index}, {seen.name}")
    why, mend = _why_unseen(seen, variables)
    if index is not None:
        what = f"the matrix names {wanted}, torch sees {seen.devices} CUDA devices{why}"
        return Finding("device", "wrong", what, "the run is refused", mend)
    if cards:
        what = f"NVML sees {cards} GPU{'s' if cards > 1 else ''} and torch none{why}: cells run on the CPU"
        return Finding("device", "wrong", what, _CPU_EFFECT, mend)
    return Finding("device", "warning", "no GPU: cells run on the CPU", _CPU_EFFECT, _RUN_ON_CPU)


def _why_unseen(seen: TorchDevices, variables: Mapping[str, str]) -> tuple[str, str]:
    """Likely reason why torch does not see a device, in parentheses, and the command that fixes it."""
    if seen.cuda is None:
        return " (this build has no CUDA)", "pip install --force-reinstall torch"
    if "CUDA_VISIBLE_DEVICES" in variables:
        return f" (CUDA_VISIBLE_DEVICES={variables['CUDA_VISIBLE_DEVICES']})", "unset CUDA_VISIBLE_DEVICES"
    return "", "python -c 'import torch; torch.cuda.init()'"


def _card(pynvml: Any, index: int, uuid: str | None, variables: Mapping[str, str]) -> list[Finding]:
    """Findings on the card that CUDA numbers ``index``."""
    visible, order = variables.get("CUDA_VISIBLE_DEVICES"), variables.get("CUDA_DEVICE_ORDER")
    try:
        card = find_device(pynvml, visible, index, uuid, pci_order=order == "PCI_BUS_ID")
    except SliceNotNamedError as error:
        return [*unknown_card(str(error))[:-1], no_slice(str(error))]
    except (DeviceNotFoundError, pynvml.NVMLError) as error:
        return unknown_card(f"NVML: {error}")
    return examine_card(pynvml, card)


def _driver(pynvml: Any) -> tuple[int | None, Finding]:
    """Number of cards that NVML sees (None if unknown), and the finding on the driver's versions."""

    def text(function: str) -> str:
        try:
            value = getattr(pynvml, function)()
        except (AttributeError, pynvml.NVMLError):
            return "unknown"
        return value.decode() if isinstance(value, bytes) else str(value)

    cuda, version, count = (
        text(f"nvml{name}") for name in ("SystemGetCudaDriverVersion", "SystemGetDriverVersion", "DeviceGetCount")
    )
    if cuda.isdecimal():
        cuda = f"{int(cuda) // 1000}.{int(cuda) % 1000 // 10}"
    what = f"driver {version} for CUDA up to {cuda}, GPUs: {count}"
    if "unknown" in (cuda, version, count):
        return None if count == "unknown" else int(count), unknown("driver", what, _DRIVER_EFFECT, "nvidia-smi")
    return int(count), ok("driver", what)
