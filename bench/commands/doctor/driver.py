"""The driver, and whether torch can use the device that the matrix names."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from bench.commands.doctor.finding import Finding, Level, ok, unknown
from bench.commands.doctor.gpu import examine_card, unasked
from bench.measure.nvml_device import DeviceNotFoundError, find_device

# NVML's codes for a machine without a driver: driver not loaded, library not found.
_NO_DRIVER = frozenset({9, 12})
_DRIVER_EFFECT = "no figures of NVML: memory of the process, utilisation, power, energy and throttling stay empty"
# Says that the CPU is meant, and is what a run of that kind is started with.
_MEAN_CPU = "python run_bench.py run --device cpu"
_CPU_EFFECT = "times and memory are the CPU's: comparable with each other, not with a GPU's"


@dataclass(frozen=True)
class TorchSees:
    """What torch knows of CUDA.

    Attributes:
        cuda: the CUDA version it was built for; None for a build without.
        devices: how many it can use.
        uuid, name: of the device that the matrix runs on; None on the CPU.
        error: why that device cannot be used although it is there; empty if it can.
    """

    cuda: str | None
    devices: int
    uuid: str | None = None
    name: str | None = None
    error: str = ""


def device_index(wanted: str, devices: int) -> int | None:
    """CUDA's number of the device that a matrix names; None for the CPU."""
    if wanted == "cpu" or (wanted == "auto" and not devices):
        return None
    return 0 if wanted == "auto" else int(wanted.partition(":")[2] or 0)


def examine_driver(wanted: str, sees: TorchSees, variables: dict[str, str], pynvml: Any = None) -> list[Finding]:
    """Driver, device, and all checks of the card that the matrix runs on.

    Args:
        wanted: ``device`` of the matrix: auto, cpu, cuda or cuda:N.
        sees: what torch sees.
        variables: the environment; the two that choose CUDA's devices are read.
        pynvml: the module; ``nvidia-ml-py``'s if None.
    """
    index = device_index(wanted, sees.devices)
    here = index if index is not None and index < sees.devices else None
    try:
        nvml = pynvml if pynvml is not None else import_module("pynvml")
    except ImportError:
        why = "nvidia-ml-py is not installed"
        first = unknown("driver", why, _DRIVER_EFFECT, "pip install nvidia-ml-py")
        return [first, device(wanted, sees, None, variables), *([] if here is None else unasked(why))]
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        first = no_driver(error, wanted, sees.devices)
        return [first, device(wanted, sees, None, variables), *([] if here is None else unasked(f"NVML: {error}"))]
    try:
        cards, first = _driver(nvml)
        rest = [] if here is None else _card(nvml, here, sees.uuid, variables)
        return [first, device(wanted, sees, cards, variables), *rest]
    finally:
        nvml.nvmlShutdown()


def no_driver(error: Any, wanted: str, devices: int) -> Finding:
    """NVML cannot be opened. Whether that stops the run is for the check of the device to say."""
    if getattr(error, "value", None) in _NO_DRIVER:
        if wanted == "cpu":
            return ok("driver", f"none ({error}), and the matrix names the CPU")
        # Where torch sees a GPU, or one is asked for, nvidia-smi says what is missing.
        mend = "nvidia-smi" if devices or wanted != "auto" else _MEAN_CPU
        return Finding("driver", "warning", f"none ({error})", _DRIVER_EFFECT, mend)
    # After an update the loaded driver and its library differ until the next start.
    level: Level = "warning" if wanted == "cpu" else "wrong"
    return Finding("driver", level, f"cannot be asked: {error}", _DRIVER_EFFECT, "sudo reboot")


def device(wanted: str, sees: TorchSees, cards: int | None, variables: dict[str, str]) -> Finding:
    """Where the cells will run, and whether they can.

    Args:
        cards: how many NVML sees; None if it cannot be asked.
    """
    index = device_index(wanted, sees.devices)
    if wanted == "cpu":
        return ok("device", "cpu, as the matrix says")
    if index is not None and index < sees.devices:
        if sees.error:
            what = f"cuda:{index} cannot be used: {sees.error}"
            return Finding("device", "wrong", what, "every cell fails", f"nvidia-smi -i {index} -q -d COMPUTE,MEMORY")
        return ok("device", f"cuda:{index}, {sees.name}")
    why, mend = _why_unseen(sees, variables)
    if index is not None:
        what = f"the matrix names {wanted}, torch sees {sees.devices} CUDA devices{why}"
        return Finding("device", "wrong", what, "the run is refused", mend)
    if cards:
        what = f"NVML sees {cards} GPU{'s' if cards > 1 else ''} and torch none{why}: cells run on the CPU"
        return Finding("device", "wrong", what, _CPU_EFFECT, mend)
    return Finding("device", "warning", "no GPU: cells run on the CPU", _CPU_EFFECT, _MEAN_CPU)


def _why_unseen(sees: TorchSees, variables: dict[str, str]) -> tuple[str, str]:
    """The likely reason, for the text, and what mends it."""
    if sees.cuda is None:
        return " (this build has no CUDA)", "pip install --force-reinstall torch"
    if "CUDA_VISIBLE_DEVICES" in variables:
        return f" (CUDA_VISIBLE_DEVICES={variables['CUDA_VISIBLE_DEVICES']})", "unset CUDA_VISIBLE_DEVICES"
    return "", "python -c 'import torch; torch.cuda.init()'"


def _card(pynvml: Any, index: int, uuid: str | None, variables: dict[str, str]) -> list[Finding]:
    visible, order = variables.get("CUDA_VISIBLE_DEVICES"), variables.get("CUDA_DEVICE_ORDER")
    try:
        found = find_device(pynvml, visible, index, uuid, pci_order=order == "PCI_BUS_ID")
    except (DeviceNotFoundError, pynvml.NVMLError) as error:
        return unasked(f"NVML: {error}")
    return examine_card(pynvml, found)


def _driver(pynvml: Any) -> tuple[int | None, Finding]:
    """How many cards NVML sees, and the versions."""

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
