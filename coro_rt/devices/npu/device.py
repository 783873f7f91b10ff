"""The NPU: a worker's thread runs compiled layer groups one after the other; one run is a quantum.

`preempt_requested` is read between runs. A run whose job has been cancelled is ended from within, between
two nodes, so that a cancel need not wait for a long one. The session releases the GIL while it runs, and its
threads do not spin.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any
from weakref import WeakSet

from coro_rt.devices.base import Device, checked_watchdog
from coro_rt.devices.cpu import usable_cpus
from coro_rt.errors import DeviceError, DeviceLost

from . import providers
from .providers import Libraries, Provider

BUCKETS = (16, 64, 128, 256)
WEIGHTS = ("auto", "int4", "int8", "float32")
ACTIVATIONS = ("auto", "float32", "int16", "int8")


@dataclass(slots=True)
class Counts:
    """What the device has done since it was made."""

    runs: int = 0  # of layer groups
    ended_early: int = 0  # because their job was cancelled
    tokens: int = 0  # read, all layers
    busy_s: float = 0.0


class Session:
    """A loaded graph. Ends with its device at the latest."""

    def __init__(self, loaded: Any) -> None:
        self.loaded = loaded
        self.inputs = loaded.get_inputs()
        self.outputs = [output.name for output in loaded.get_outputs()]


@dataclass(eq=False, slots=True)
class _Run:
    """A run under way, as others may want it to end."""

    options: Any
    abandoned: Callable[[], bool]
    overdue: bool = False  # the watchdog wants it


class NpuDevice(Device):
    """An NPU behind an execution provider of ONNX Runtime.

    - `provider`: its name, short ("qnn", "openvino", "coreml", "cann", "vitisai", "cpu") or whole; None: the
      first that has an NPU. The CPU's is a stand-in, never taken unless named
    - `libraries`: of providers, by path or by the name of a package
    - `options`: of the provider, passed through; None: those that make it use the NPU
    - `weights`: "auto" keeps 4-bit formats as they are, the others become int8 by row; or "int4", "int8",
      "float32" for all
    - `activations`: "auto" is what the provider does by itself (the CPU's: int8 by blocks of 32, as our own
      kernels), or "float32"; or "int16" or "int8" with fixed ranges, learned from a text when a model is
      loaded
    - `buckets`: tokens of a chunk, for which graphs are compiled
    - `quantum_s`: what the run of a layer group aims at
    - `watchdog_s`: a run that takes so long is ended, and hangs if it does not end then
    - `cache`: the folder for compiled graphs; None: in the user's cache folder

    Raises DeviceError for settings that cannot be; `start` does if there is no such provider.
    """

    kind = "npu"
    times_quanta = True

    def __init__(
        self,
        *,
        name: str = "npu",
        provider: str | None = None,
        libraries: Sequence[str | os.PathLike[str]] = (),
        options: Mapping[str, str] | None = None,
        weights: str = "auto",
        activations: str = "auto",
        buckets: Sequence[int] = BUCKETS,
        threads: int | None = None,
        quantum_s: float = 0.005,
        watchdog_s: float = 30.0,
        cache: str | os.PathLike[str] | None = None,
    ) -> None:
        _one_of("weights", weights, WEIGHTS)
        _one_of("activations", activations, ACTIVATIONS)
        if not buckets or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in buckets):
            raise DeviceError(f"buckets are numbers of tokens, at least 1 each, not {buckets!r}")
        if isinstance(libraries, str):
            raise DeviceError(f"libraries is a list of paths or packages, not {libraries!r}")
        if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
            raise DeviceError(f"threads is a whole number, at least 1, not {threads!r}")
        if not quantum_s > 0:
            raise DeviceError(f"quantum_s is a positive number of seconds, not {quantum_s!r}")
        self.name, self.quantum_s = name, quantum_s
        self.watchdog_s = checked_watchdog(watchdog_s)
        self.weights, self.activations = weights, activations
        self.buckets = tuple(sorted(set(buckets)))
        self.cache = None if cache is None else Path(cache)
        self.counts = Counts()
        self._wanted, self._options, self._given = provider, options, tuple(libraries)
        self._threads = usable_cpus() if threads is None else threads
        self._libraries: Libraries | None = None
        self._provider: Provider | None = None
        self._sessions: WeakSet[Session] = WeakSet()
        self._preempt = False
        self._lock = threading.Lock()  # around what `preempt` may look at
        self._run: _Run | None = None

    @property
    def provider(self) -> Provider:
        """The provider, found at the first use. Raises DeviceError if there is none."""
        if self._provider is None:
            libraries = Libraries()
            try:
                libraries.add(self._given)
                self._provider = providers.find(self._wanted, self._options)
            except BaseException:
                libraries.remove()
                raise
            self._libraries = libraries
        return self._provider

    @property
    def detail(self) -> str:
        buckets = "/".join(map(str, self.buckets))
        return (
            f"{self.provider.describe()}; reads prompts in chunks of {buckets} tokens, "
            f"weights {self.weights}, activations {self.activations}"
        )

    def missing(self) -> Sequence[str]:
        try:
            return providers.missing()
        except DeviceError:  # and then all are
            return [known.line(name) for name, known in providers.KNOWN.items()]

    def start(self) -> None:
        _ = self.provider

    def close(self) -> None:
        self._provider = None
        for session in list(self._sessions):
            session.loaded = None  # before their provider's library goes
        libraries, self._libraries = self._libraries, None
        if libraries is not None:
            libraries.remove()

    def preempt(self) -> None:
        self._preempt = True
        with self._lock:
            if self._run is not None and self._run.abandoned():
                self._run.options.terminate = True

    def interrupt(self) -> bool:
        with self._lock:
            if self._run is None:
                return False
            self._run.overdue = True
            self._run.options.terminate = True
            return True

    def reopen(self) -> None:
        """Sessions begin anew; the provider and its library stay, as something may still be inside."""
        for session in list(self._sessions):
            session.loaded = None
        self.epoch += 1

    def sound(self) -> bool:
        from coro_rt.devices.known_answer import answers_rightly

        from .single import OnNpu

        return answers_rightly(OnNpu(self))

    def preempt_requested(self) -> bool:
        return self._preempt

    def clear_preempt(self) -> None:
        self._preempt = False

    # Sessions.

    def fingerprint(self) -> str:
        """What compiled graphs depend on, besides the model and the shape."""
        ort = providers.runtime()
        provider = self.provider
        versions = [device.ep_metadata.get("version", "") for device in provider.devices]
        options = sorted(provider.options.items())
        numbers = self.weights, self.activations
        return repr((ort.__version__, provider.name, versions, options, numbers, self.quantum_s))

    def compile(self, model: bytes, path: Path) -> None:
        """Write a graph as the provider wants it to `path`. Raises DeviceError."""
        ort = providers.runtime()
        try:
            ort.ModelCompiler(
                self._session_options(), model, embed_compiled_data_into_model=True,
                graph_optimization_level=ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
            ).compile_to_file(str(path))  # fmt: skip
        except Exception as error:  # whatever a provider makes of it
            raise DeviceError(f"{self.provider.name} could not compile a layer group: {error}") from error

    def open(self, model: Path | bytes) -> Session:
        """Load a graph. Raises DeviceError."""
        ort, provider = providers.runtime(), self.provider
        source = model if isinstance(model, bytes) else str(model)
        try:
            session = Session(ort.InferenceSession(source, self._session_options()))
        except Exception as error:
            raise DeviceError(f"{provider.name} could not load a layer group: {error}") from error
        self._sessions.add(session)
        return session

    def _session_options(self) -> Any:
        ort, provider = providers.runtime(), self.provider
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.inter_op.allow_spinning", "0")
        options.add_session_config_entry("session.qdqisint8allowed", "1")  # as it stands, not as uint8
        if self.activations == "float32":  # also where products are fused
            options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        if provider.devices:
            options.add_provider_for_devices(list(provider.devices), dict(provider.options))
        elif not provider.stand_in:
            options.add_provider(provider.name, dict(provider.options))
        return options

    def run(
        self, session: Session, inputs: Mapping[str, Any], abandoned: Callable[[], bool] = lambda: False
    ) -> dict[str, Any] | None:
        """One quantum: the session's outputs by name. None: it was ended because `abandoned()`; that is asked
        whenever the device is preempted. Raises DeviceLost; DeviceError for inputs that do not fit.
        """
        ort = providers.runtime()
        run = _Run(ort.RunOptions(), abandoned)
        fed = {each.name: inputs[each.name] for each in session.inputs}
        if self.in_worker or self._thread is None:  # those that load graphs try them out, too
            with self._lock:
                self._run = run
        began = perf_counter()
        try:
            if abandoned():  # before `preempt` could know of this run
                return None
            with self.waiting():
                outputs = session.loaded.run(session.outputs, fed, run.options)
            return dict(zip(session.outputs, outputs, strict=True))
        except DeviceLost:
            raise
        except Exception as error:
            if run.overdue:
                detail = f"a layer group did not end within {self.watchdog_s:g} s"
                raise self.lose("hung", detail) from error
            if run.options.terminate:
                self.counts.ended_early += 1
                return None
            what = f"{self.provider.name} failed in a layer group: {error}"
            if type(error).__name__ == "InvalidArgument":
                raise DeviceError(what) from error
            raise self.lose("memory" if "allocate memory" in str(error) else "lost", what) from error
        finally:
            with self._lock:
                if self._run is run:  # else another thread has taken over
                    self._run = None
            self.counts.runs += 1
            self.counts.busy_s += perf_counter() - began


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise DeviceError(f"{name} is one of {', '.join(known)}, not {value!r}")
