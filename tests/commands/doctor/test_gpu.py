"""Driver, device and card: every check in each of its levels, against a driver that plays them."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

import pynvml
import pytest

from bench.commands.doctor import gpu
from bench.commands.doctor.driver import TorchDevices, examine_driver
from bench.commands.doctor.finding import Finding
from bench.measure.nvml import THROTTLES
from tests.measure.fake_nvml import DRIVER_NOT_LOADED, A, B, FakeDevice, FakeNvml, NVMLError, process, sliced

SEES = TorchDevices("12.8", 1, A, "Fake H100")
BLIND = TorchDevices("12.8", 0)
OWN = process(os.getpid(), 500)
GIB = 2**30
UNTOLD = NVMLError(999)
NOT_SUPPORTED = NVMLError(3)


def card(**changes: Any) -> FakeDevice:
    usual = {"compute": (OWN,), "used": GIB // 2, "total": 80 * GIB, "utilisation": 0}
    return FakeDevice(A, **{**usual, **changes})


def examined(
    nvml: FakeNvml | FakeDevice,
    wanted: str = "auto",
    sees: TorchDevices = SEES,
    variables: Mapping[str, str] | None = None,
) -> dict[str, Finding]:
    module = FakeNvml([nvml]) if isinstance(nvml, FakeDevice) else nvml
    found = examine_driver(wanted, sees, dict(variables or {}), module)
    assert module.open == 0  # what was opened is closed again
    assert len({finding.check for finding in found}) == len(found)
    for finding in found:
        assert finding.finding
        assert bool(finding.mend) == bool(finding.effect) == (finding.level != "ok"), finding
    return {finding.check: finding for finding in found}


def test_a_card_in_order_is_ok_in_every_check() -> None:
    found = examined(card())
    assert list(found) == ["driver", "device", *gpu.CHECKS]
    assert {finding.level for finding in found.values()} == {"ok"}
    assert found["driver"].finding == "driver 570.1 for CUDA up to 12.8, GPUs: 1"
    assert "Fake H100" in found["device"].finding


@pytest.mark.parametrize(
    ("check", "changes", "level", "said", "mend"),
    [
        ("gpu users", {"compute": (OWN, process(7, 3 * GIB))}, "warning", "1 other process on the GPU holding 3.0", ""),
        ("gpu users", {"compute": (OWN, process(7, None)), "utilisation": 90}, "wrong", "utilisation 90 %", ""),
        ("gpu users", {"compute": (OWN, process(7, 1)), "utilisation": UNTOLD}, "warning", "utilisation unknown", ""),
        ("gpu users", {"compute": (), "utilisation": 0}, "warning", "unknown: ", ""),
        ("gpu users", {"compute": (), "used": 9 * GIB}, "warning", "9.0 GiB are in use", "--query-compute-apps"),
        ("gpu users", {"compute": (), "utilisation": 40}, "wrong", "the GPU is busy", ""),
        ("gpu memory", {"used": 20 * GIB}, "warning", "60.0 GiB of 80.0 GiB free", ""),
        ("gpu memory", {"used": 50 * GIB}, "wrong", "30.0 GiB of 80.0 GiB free", ""),
        ("gpu memory", {"used": UNTOLD}, "warning", "unknown: ", ""),
        ("persistence mode", {"persistence": 0}, "warning", "off", f"sudo nvidia-smi -i {A} -pm 1"),
        ("persistence mode", {"persistence": NOT_SUPPORTED}, "warning", "unknown: ", ""),
        ("power cap", {"cap": 600_000}, "warning", "600 W of 700 W", f"sudo nvidia-smi -i {A} -pl 700"),
        ("power cap", {"cap": 300_000}, "wrong", "300 W of 700 W", f"sudo nvidia-smi -i {A} -pl 700"),
        ("power cap", {"cap": UNTOLD}, "warning", "unknown: ", ""),
        ("power cap", {"usual_cap": UNTOLD}, "warning", "unknown: ", ""),
        ("clocks", {"reasons": 0x02}, "warning", "set by an application", "-rgc"),
        ("clocks", {"reasons": 0x04}, "warning", "software power cap", ""),
        ("clocks", {"reasons": 0x01 | 0x40}, "wrong", "hardware thermal slowdown", ""),
        ("clocks", {"reasons": 0x04 | 0x08}, "wrong", "software power cap, hardware slowdown", ""),
        ("clocks", {"reasons": UNTOLD, "clock": UNTOLD}, "warning", "unknown: ", ""),
        ("clocks", {"reasons": 0x01}, "ok", "1980 MHz of 1980 MHz at 60 °C", ""),
        ("ecc", {"ecc": (0, 0)}, "warning", "off", f"sudo nvidia-smi -i {A} -e 1"),
        ("ecc", {"ecc": (0, 1)}, "warning", "on after the next reset", "sudo reboot"),
        ("ecc", {"uncorrected": 3}, "wrong", "3 uncorrected errors", ""),
        ("ecc", {"uncorrected": UNTOLD}, "warning", "unknown: ", ""),
        ("ecc", {"ecc": UNTOLD}, "warning", "unknown: ", ""),
        ("ecc", {"ecc": NOT_SUPPORTED}, "ok", "no ECC", ""),
        ("mig", {"mig_mode": (1, 1)}, "wrong", "names no slice", "nvidia-smi -L"),
        ("mig", {"mig_mode": UNTOLD}, "warning", "unknown: ", ""),
        ("mig", {"mig_mode": NOT_SUPPORTED}, "ok", "cannot be sliced", ""),
    ],
)
def test_the_levels_of_a_card(check: str, changes: dict[str, Any], level: str, said: str, mend: str) -> None:
    found = examined(card(**changes))[check]
    assert (found.level, said in found.finding) == (level, True), found
    assert mend in found.mend


def test_a_slice_is_told_apart_from_a_card() -> None:
    sees = TorchDevices("12.8", 1, "MIG-s2", "slice")
    found = examined(sliced(), sees=sees, variables={"CUDA_VISIBLE_DEVICES": "MIG-s2"})
    assert (found["mig"].level, found["mig"].finding) == ("warning", "the matrix runs on a slice of a card")
    assert A in found["mig"].mend  # the card's, which is what can be set


def test_a_divided_card_without_a_named_slice_is_wrong() -> None:
    found = examined(sliced())
    assert list(found) == ["driver", "device", *gpu.CHECKS]
    assert found["mig"].level == "wrong"
    assert "CUDA_VISIBLE_DEVICES (MIG-s1, MIG-s2)" in found["mig"].finding
    assert all(found[check].finding.startswith("unknown: ") for check in gpu.CHECKS if check != "mig")


def test_the_card_is_the_one_that_torch_computes_on() -> None:
    """NVML's order is turned round, and the other card is in a bad state."""
    other = FakeDevice(B, persistence=0, cap=1, reasons=0x40)
    assert examined(FakeNvml([other, card()]))["clocks"].level == "ok"
    found = examined(FakeNvml([card(), other]), "cuda:1", TorchDevices("12.8", 2, B, "other"))
    assert (found["clocks"].level, found["power cap"].level) == ("wrong", "wrong")


def test_an_older_module_or_driver_lacks_functions() -> None:
    refused = {name: NVMLError(13) for name in ("nvmlDeviceGetMigMode", "nvmlSystemGetCudaDriverVersion")}
    found = examined(FakeNvml([card()], refused))
    assert found["mig"].finding.startswith("unknown: the driver does not report it")
    assert found["driver"].finding.startswith("unknown: driver 570.1")

    class Old(FakeNvml):
        nvmlDeviceGetPersistenceMode = None  # type: ignore[assignment]

    assert examined(Old([card()]))["persistence mode"].finding.startswith("unknown: the installed nvidia-ml-py has no")


def test_cards_that_cannot_be_counted() -> None:
    found = examined(FakeNvml([card()], {"nvmlDeviceGetCount": UNTOLD}))
    assert found["driver"].finding.startswith("unknown: ")
    assert all(found[check].finding.startswith("unknown: ") for check in gpu.CHECKS)


@pytest.mark.parametrize(
    ("wanted", "sees", "level", "mend"),
    [
        ("auto", BLIND, "warning", "--device cpu"),
        ("auto", SEES, "warning", "nvidia-smi"),
        ("cuda:0", BLIND, "warning", "nvidia-smi"),
        ("cpu", BLIND, "ok", ""),
    ],
)
def test_no_driver(wanted: str, sees: TorchDevices, level: str, mend: str) -> None:
    found = examined(FakeNvml([], {"nvmlInit": NVMLError(DRIVER_NOT_LOADED)}), wanted, sees)
    assert found["driver"].level == level
    assert mend in found["driver"].mend
    # A card that torch uses all the same is unknown in every check, never ok.
    asked = [found[check].finding for check in gpu.CHECKS if check in found]
    assert len(asked) == (len(gpu.CHECKS) if sees is SEES else 0)
    assert all(text.startswith("unknown: ") for text in asked)


@pytest.mark.parametrize(("wanted", "level"), [("auto", "wrong"), ("cuda:0", "wrong"), ("cpu", "warning")])
def test_a_driver_that_does_not_answer(wanted: str, level: str) -> None:
    found = examined(FakeNvml([], {"nvmlInit": NVMLError(18)}), wanted, BLIND)
    assert (found["driver"].level, found["driver"].mend) == (level, "sudo reboot")


def test_without_the_bindings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    driver, device, *rest = examine_driver("auto", SEES, {})
    assert (driver.level, driver.mend) == ("warning", "pip install nvidia-ml-py")
    assert device.level == "ok"
    assert [finding.check for finding in rest] == list(gpu.CHECKS)
    assert all(finding.finding.startswith("unknown: nvidia-ml-py is not installed") for finding in rest)


@pytest.mark.parametrize(
    ("wanted", "sees", "variables", "level", "said", "mend"),
    [
        ("auto", SEES, {}, "ok", "cuda:0, Fake H100", ""),
        ("cpu", SEES, {}, "ok", "as the matrix says", ""),
        ("cuda", SEES, {}, "ok", "cuda:0", ""),
        (
            "auto",
            TorchDevices(None, 0),
            {},
            "wrong",
            "NVML sees 1 GPU and torch none (this build has no CUDA)",
            "pip install",
        ),
        ("auto", BLIND, {"CUDA_VISIBLE_DEVICES": ""}, "wrong", "(CUDA_VISIBLE_DEVICES=)", "unset CUDA_VISIBLE_DEVICES"),
        ("auto", BLIND, {}, "wrong", "cells run on the CPU", "torch.cuda.init()"),
        ("cuda:3", SEES, {}, "wrong", "the matrix names cuda:3, torch sees 1", "torch.cuda.init()"),
        (
            "auto",
            TorchDevices("12.8", 1, error="busy or unavailable"),
            {},
            "wrong",
            "cannot be used: busy",
            "nvidia-smi",
        ),
    ],
)
def test_the_levels_of_the_device(
    wanted: str, sees: TorchDevices, variables: dict[str, str], level: str, said: str, mend: str
) -> None:
    found = examined(card(), wanted, sees, variables)["device"]
    assert (found.level, said in found.finding) == (level, True), found
    assert mend in found.mend


def test_a_machine_without_any_gpu() -> None:
    found = examined(FakeNvml([]), "auto", BLIND)
    assert (found["device"].level, found["device"].mend) == ("warning", "python run_bench.py run --device cpu")
    assert list(found) == ["driver", "device"]


def test_a_card_that_a_cpu_run_does_not_use_is_not_examined() -> None:
    assert list(examined(card(persistence=0), "cpu")) == ["driver", "device"]


def test_the_numbers_are_nvmls() -> None:
    assert pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED == gpu._UNCORRECTED
    assert pynvml.NVML_VOLATILE_ECC == gpu._SINCE_LOADED
    assert pynvml.nvmlClocksEventReasonApplicationsClocksSetting == gpu.CLOCKS_SET
    assert pynvml.nvmlClocksEventReasonSwPowerCap == gpu.POWER_CAP
    assert gpu.POWER_CAP in THROTTLES
    assert pynvml.NVML_ERROR_NOT_SUPPORTED == gpu._NOT_SUPPORTED


@pytest.mark.gpu
def test_a_real_card() -> None:
    import torch

    from bench.commands.doctor.examine import torch_devices

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    found = {finding.check: finding for finding in examine_driver("cuda:0", torch_devices("cuda:0"), dict(os.environ))}
    assert list(found) == ["driver", "device", *gpu.CHECKS]
    assert found["device"].level == "ok"
    assert torch.cuda.get_device_name(0) in found["device"].finding
