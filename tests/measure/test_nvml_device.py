"""Which of NVML's devices is meant, by UUID, by CUDA_VISIBLE_DEVICES and by number."""

from __future__ import annotations

import pytest

from bench.measure.nvml_device import DeviceNotFoundError, SliceNotNamedError, find_device
from tests.measure.fake_nvml import GPU_IS_LOST, NOT_SUPPORTED, A, B, FakeDevice, FakeNvml, NVMLError, opened, sliced


def test_devices_are_matched_by_uuid_whatever_their_order() -> None:
    nvml = opened(FakeNvml([FakeDevice(B), FakeDevice(A)]))
    for uuid in (A, A.removeprefix("GPU-"), A.upper().replace("GPU-", "")):
        assert find_device(nvml, None, 0, uuid).handle is nvml.devices[1]
        # CUDA's own numbers turn the order round once more; they do not matter.
        assert find_device(nvml, "1,0", 0, uuid).handle is nvml.devices[1]
        assert find_device(nvml, f"{B},{A}", 1, uuid).handle is nvml.devices[1]


def test_devices_are_matched_by_the_names_in_cuda_visible_devices() -> None:
    nvml = opened(FakeNvml([FakeDevice(B), FakeDevice(A)]))
    assert find_device(nvml, f"{A},{B}", 0, None).uuid == A
    assert find_device(nvml, "GPU-bbbb, GPU-aaaa", 1, None).uuid == A
    for visible, index in (("", 0), ("-1", 0), (A, 1), (f"{A},-1,{B}", 1)):
        with pytest.raises(DeviceNotFoundError, match="CUDA_VISIBLE_DEVICES="):
            find_device(nvml, visible, index, None)
    with pytest.raises(DeviceNotFoundError, match="fits 2"):
        find_device(nvml, "GPU-", 0, None)
    with pytest.raises(DeviceNotFoundError, match="fits 0"):
        find_device(nvml, "GPU-cccc", 0, None)


def test_a_number_alone_is_trusted_only_where_it_cannot_mislead() -> None:
    two = opened(FakeNvml([FakeDevice(B), FakeDevice(A)]))
    with pytest.raises(DeviceNotFoundError, match="PCI_BUS_ID"):
        find_device(two, None, 1, None)
    assert find_device(two, None, 1, None, pci_order=True).uuid == A
    assert find_device(two, "1", 0, None, pci_order=True).uuid == A
    one = opened(FakeNvml([FakeDevice(A)]))
    assert find_device(one, None, 0, None).uuid == A
    with pytest.raises(DeviceNotFoundError, match="number 3"):
        find_device(one, "3", 0, None)
    with pytest.raises(DeviceNotFoundError, match="no device"):
        find_device(opened(FakeNvml()), None, 0, A)


def test_a_card_that_cannot_be_opened_does_not_hide_the_others() -> None:
    class OneLost(FakeNvml):
        def nvmlDeviceGetUUID(self, handle: FakeDevice) -> str:
            if handle.uuid == B:
                raise NVMLError(GPU_IS_LOST)
            return handle.uuid

    assert find_device(opened(OneLost([FakeDevice(B), FakeDevice(A)])), None, 0, A).uuid == A


@pytest.mark.parametrize(
    ("visible", "index", "uuid"),
    [
        ("MIG-s2", 0, None),
        ("MIG-s1,MIG-s2", 1, None),
        (f"MIG-{A}/2/0", 0, None),
        (None, 0, "s2"),
        ("MIG-s2", 0, "s2"),
        ("MIG-s1,MIG-s2", 0, "MIG-s2"),
        ("MIG-s2", 0, A),
    ],
)
def test_slices_are_found_by_each_of_their_names(visible: str | None, index: int, uuid: str | None) -> None:
    device = find_device(opened(sliced()), visible, index, uuid)
    assert (device.uuid, device.card, device.mig) == ("MIG-s2", A, True)


def test_cards_are_still_found_where_there_are_slices() -> None:
    nvml = opened(sliced())
    assert find_device(nvml, None, 0, B).uuid == B
    assert find_device(nvml, None, 0, None, pci_order=True).uuid == B


@pytest.mark.parametrize(
    ("visible", "index", "uuid"),
    [(None, 0, A), ("1", 0, A), (A, 0, A), (A, 0, None), (None, 1, None), ("MIG-", 0, A), ("MIG-s3", 0, A)],
)
def test_a_divided_card_is_never_taken_for_a_device(visible: str | None, index: int, uuid: str | None) -> None:
    with pytest.raises(SliceNotNamedError, match=r"name one slice in CUDA_VISIBLE_DEVICES \(MIG-s1, MIG-s2\)"):
        find_device(opened(sliced()), visible, index, uuid, pci_order=True)


@pytest.mark.parametrize(("visible", "uuid"), [(None, A), (A, A), (A, None), ("0", None), ("MIG-s1", A)])
def test_the_only_slice_of_a_card_needs_no_name(visible: str | None, uuid: str | None) -> None:
    """As in a container that sees one slice: the other places are empty."""
    card = FakeDevice(A, slices=[None, None, FakeDevice("MIG-s1", place=(1, 0)), None], mig_mode=(1, 1))
    assert find_device(opened(FakeNvml([card])), visible, 0, uuid).uuid == "MIG-s1"


def test_a_divided_card_whose_slices_are_hidden() -> None:
    card = FakeDevice(A, slices=[None] * 7, mig_mode=(1, 1))
    with pytest.raises(SliceNotNamedError, match="nvidia-smi -L"):
        find_device(opened(FakeNvml([card])), None, 0, A)


@pytest.mark.parametrize("refused", [{}, {"nvmlDeviceGetMigMode": NVMLError(NOT_SUPPORTED)}])
def test_empty_places_for_slices_do_not_divide_a_card(refused: dict[str, Exception]) -> None:
    """A card that could be divided has places for slices also while MIG is off."""
    card = FakeDevice(A, slices=[None] * 7)
    assert find_device(opened(FakeNvml([card], refused)), None, 0, A).handle is card
