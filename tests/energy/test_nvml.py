"""NVML, with a made-up library in the place of NVIDIA's."""

import subprocess
import sys

import pytest

from coro_rt.energy import Nvml
from coro_rt.errors import EnergyError
from coro_rt.testing import SimDevice


class Library:
    """GPUs by name, and what each has counted; None: it does not count."""

    class NVMLError(Exception):
        """As the package's."""

    def __init__(self, *gpus: tuple[str | bytes, int | None], driver: bool = True) -> None:
        self.gpus = list(gpus)
        self.driver = driver
        self.open = 0

    def nvmlInit(self) -> None:
        if not self.driver:
            raise self.NVMLError("NVML Shared Library Not Found")
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetCount(self) -> int:
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, number: int) -> int:
        return number

    def nvmlDeviceGetName(self, gpu: int) -> str | bytes:
        return self.gpus[gpu][0]

    def nvmlDeviceGetTotalEnergyConsumption(self, gpu: int) -> int:
        counted = self.gpus[gpu][1]
        if counted is None:
            raise self.NVMLError("Not Supported")
        return counted


class Gpu(SimDevice):
    """A GPU of a name."""

    kind = "gpu"

    def __init__(self, hardware: str) -> None:
        super().__init__("gpu")
        self._hardware = hardware

    @property
    def hardware(self) -> str:
        return self._hardware


def test_it_counts_the_joules_of_the_gpu_that_has_the_devices_name() -> None:
    library = Library(("NVIDIA A", 1000), (b"NVIDIA B", 5500))
    source = Nvml(library)
    assert source.measures(Gpu("NVIDIA B"))
    assert source.joules() == 5.5
    library.gpus[1] = (b"NVIDIA B", 7500)
    assert source.joules() == 7.5
    source.close()
    assert library.open == 0


@pytest.mark.parametrize(
    ("gpus", "device"),
    [
        ([("NVIDIA A", 1000)], Gpu("llvmpipe")),
        ([("NVIDIA A", 1000)], SimDevice()),
        ([("NVIDIA A", 1000), ("NVIDIA A", 2000)], Gpu("NVIDIA A")),
        ([("NVIDIA A", None)], Gpu("NVIDIA A")),
        ([], Gpu("NVIDIA A")),
    ],
    ids=["another adapter", "no gpu", "two of a name", "too old to count", "none"],
)
def test_it_measures_nothing_that_it_is_not_sure_of(
    gpus: list[tuple[str, int | None]], device: SimDevice
) -> None:
    assert not Nvml(Library(*gpus)).measures(device)


def test_a_gpu_that_is_lost_is_an_error_of_the_system() -> None:
    library = Library(("NVIDIA A", 1000))
    source = Nvml(library)
    assert source.measures(Gpu("NVIDIA A"))
    library.gpus[0] = ("NVIDIA A", None)
    with pytest.raises(OSError, match="NVML: Not Supported"):
        source.joules()


def test_without_a_driver_it_says_so() -> None:
    with pytest.raises(
        EnergyError, match="NVML: NVML Shared Library Not Found: it comes with NVIDIA's driver"
    ):
        Nvml(Library(driver=False))


def test_without_the_package_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("coro_rt.energy.nvml.find_spec", lambda name: None)
    with pytest.raises(
        EnergyError, match=r"the package nvidia-ml-py is missing: pip install 'coro-rt\[nvml\]'"
    ):
        Nvml()


def test_nothing_is_imported_for_it_unless_a_gpu_is_to_be_measured() -> None:
    code = (
        "import sys\n"
        "class Seen:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name == 'pynvml': sys.exit('pynvml was looked for')\n"
        "sys.meta_path.insert(0, Seen())\n"
        "from coro_rt.energy import Meter\n"
        "Meter.find({'cpu', 'npu', 'sim'})\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
