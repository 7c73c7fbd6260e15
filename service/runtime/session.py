"""onnxruntime behind one call: named arrays in, named arrays out."""

import logging
import threading
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path

import onnxruntime

from service.errors import BadModel, ProviderMissing
from service.runtime.graphs import GraphFile, read_graph
from service.runtime.tables import read_tables
from service.runtime.tensors import Array, TensorSpec
from service.settings import Provider

logger = logging.getLogger(__name__)

CPU = "CPUExecutionProvider"
NAMES = {
    Provider.CPU: CPU,
    Provider.CUDA: "CUDAExecutionProvider",
    Provider.TENSORRT: "TensorrtExecutionProvider",
}
# How a session's threads wait, as onnxruntime's options. Spinning threads take cores from other
# runs, so they sleep. In an exclusive run they spin: a text's run is a third faster.
SHARED = {"session.intra_op.allow_spinning": "0"}
# They share the work in small blocks, so that none waits for a slower one.
EXCLUSIVE = {"session.intra_op.allow_spinning": "1", "session.dynamic_block_base": "4"}
# After the run they sleep at once, because spinning delays other threads. If each has a core of its
# own, they spin for another millisecond, for the next request. For a client that sends 20 short
# texts or 10 photos a second, this takes p50 from 9.8 to 6.3 ms, or from 17.6 to 11.6.
ANYWHERE = EXCLUSIVE | {"session.force_spinning_stop": "1"}
ON_CORES = EXCLUSIVE | {"session.intra_op.spin_duration_us": "1000"}
# The ONNX file of `y = Identity(x)`, float[1], to test whether a provider starts
PROBE = bytes.fromhex(
    "08083a370a100a017812017922084964656e746974791201675a0f0a0178120a0a08080112040a020801620f0a0179"
    "120a0a08080112040a02080142040a001011"
)
FATAL = 4  # onnxruntime's log lines do not name the model, and errors are raised as well
INT_BITS = (8, 16, 32, 64)
DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(bool)": "bool",
    **{f"tensor({sign}int{bits})": f"{sign}int{bits}" for sign in ("", "u") for bits in INT_BITS},
}


def choose_provider(wanted: Provider, available: Sequence[str] | None = None) -> Provider:
    """The provider to run on: the requested one, or for `auto` CUDA if it starts, else the CPU.

    Raises:
        ProviderMissing: this onnxruntime does not have the one that was asked for.
    """
    offered = onnxruntime.get_available_providers() if available is None else available
    if wanted is Provider.AUTO:
        return Provider.CUDA if NAMES[Provider.CUDA] in offered and cuda_starts() else Provider.CPU
    if NAMES[wanted] not in offered:
        raise ProviderMissing(
            f"SENSORIUM_PROVIDER={wanted}: {NAMES[wanted]} is not in this onnxruntime,"
            f" which has {', '.join(offered)}"
        )
    return wanted


def cuda_is_installed() -> bool:
    return NAMES[Provider.CUDA] in onnxruntime.get_available_providers()


@cache
def cuda_starts() -> bool:
    """Whether CUDA runs a graph on this machine. If it is installed and does not, log it once."""
    try:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = FATAL
        providers = [NAMES[Provider.CUDA], CPU]
        probe = onnxruntime.InferenceSession(PROBE, options, providers=providers, enable_fallback=0)
        if probe.get_providers()[0] == NAMES[Provider.CUDA]:
            return True
        reason: object = "onnxruntime moved to the CPU"
    except Exception as error:  # onnxruntime's own exceptions share no public base
        reason = error
    logger.error("CUDA is installed but cannot start, so the CPU is used: %s", reason)
    return False


class Session:
    """One graph on one execution provider. Thread-safe: lanes call `run` at the same time."""

    def __init__(
        self,
        graph: GraphFile | Path,
        provider: Provider,
        threads: int,
        exclusive_threads: int = 0,
        exclusive_cores: Sequence[int] = (),
        *,
        arena: bool = True,
    ) -> None:
        """Args:
            graph: as it was read, or where it is, if it reads no other file.
            threads: of a run beside other runs.
            exclusive_threads: of an exclusive run. If they are more, a CPU opens the graph twice:
                onnxruntime's threads belong to a session, not to a run.
            exclusive_cores: one per thread of an exclusive run. The calling thread pins itself to
                the first. Without them, the kernel places the threads.
            arena: keeps memory from run to run; without one, a session of a CPU takes 110 KiB less.

        Raises:
            BadModel: the graph cannot be read.
            ProviderMissing: the provider is in this build, but cannot start on this machine.
        """
        file = graph if isinstance(graph, GraphFile) else read_graph(graph)
        wide = provider is Provider.CPU and exclusive_threads > threads
        self._shared = _share(file) if wide else {}  # kept alive: the sessions read it in place
        self._arena = arena
        self._session = _open(file, NAMES[provider], threads, self._shared, SHARED, arena)
        self._wide = (
            _open(file, CPU, exclusive_threads, self._shared, _exclusive(exclusive_cores), arena)
            if wide
            else self._session
        )
        self._used: set[onnxruntime.InferenceSession] = set()  # since their memory was given back
        self._runs: dict[onnxruntime.RunOptions, int] = {}  # current runs -> their threads
        self.inputs = _describe(self._session.get_inputs())
        self.outputs = _describe(self._session.get_outputs())

    def run(
        self, feeds: Mapping[str, Array], outputs: Sequence[str], *, exclusive: bool = False
    ) -> list[Array]:
        """The named outputs for these inputs, in order: each [N, ...]."""
        session = self._wide if exclusive else self._session
        try:
            return self._run(session, feeds, list(outputs), _options())
        finally:  # not before: until now, a release would have been in vain
            self._used.add(session)

    def interrupt(self, threads: Collection[int | None]) -> None:
        """Stop the runs of these threads at the next node of their graph."""
        for options, thread in list(self._runs.items()):
            if thread in threads:
                options.terminate = True

    def release(self, feeds: Mapping[str, Array], outputs: Sequence[str]) -> None:
        """Return the memory that larger batches left in the arena, by a run of these feeds.

        Without an arena nothing is left, but 32 clients get 0.95 of their short texts.
        """
        for session in [*self._used] if self._arena else ():
            self._used.discard(session)
            options = _options()
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
            self._run(session, feeds, list(outputs), options)

    def _run(
        self,
        session: onnxruntime.InferenceSession,
        feeds: Mapping[str, Array],
        outputs: list[str],
        options: onnxruntime.RunOptions,
    ) -> list[Array]:
        self._runs[options] = threading.get_ident()
        try:
            arrays: list[Array] = session.run(outputs, dict(feeds), options)
        finally:
            del self._runs[options]
        return arrays


def _options() -> onnxruntime.RunOptions:
    options = onnxruntime.RunOptions()
    options.log_severity_level = FATAL
    return options


def _exclusive(cores: Sequence[int]) -> dict[str, str]:
    """The options of a session for exclusive runs."""
    if not cores:
        return ANYWHERE
    others = ";".join(str(core + 1) for core in cores[1:])  # onnxruntime counts from 1
    return ON_CORES | {"session.intra_op_thread_affinities": others}


def _share(file: GraphFile) -> dict[str, onnxruntime.OrtValue]:
    """Tables that two sessions of one graph share; keep them as long as the sessions."""
    return {
        name: onnxruntime.OrtValue.ortvalue_from_numpy(table)
        for name, table in read_tables(file.content).items()
    }


def _open(
    file: GraphFile,
    provider: str,
    threads: int,
    shared: Mapping[str, onnxruntime.OrtValue],
    waiting: Mapping[str, str],
    arena: bool,
) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = FATAL
    options.enable_cpu_mem_arena = arena
    options.add_session_config_entry("session.load_model_format", "ONNX")
    for name, value in waiting.items():
        options.add_session_config_entry(name, value)
    for name, table in shared.items():
        options.add_initializer(name, table)
    contents = list(file.side_files.values())
    options.add_external_initializers_from_files_in_memory(
        list(file.side_files), contents, list(map(len, contents))
    )
    providers = [provider] if provider == CPU else [provider, CPU]
    try:
        session = onnxruntime.InferenceSession(
            file.content,
            options,
            providers=providers,
            enable_fallback=0,  # to the CPU, also in the middle of a run
        )
    except Exception as error:  # onnxruntime's own exceptions share no public base
        if provider != CPU and isinstance(error, ValueError | RuntimeError):
            raise ProviderMissing(f"{file.path}: {provider} cannot start: {error}") from error
        raise BadModel(f"{file.path}: onnxruntime cannot load it: {error}") from error
    if session.get_providers()[0] != provider:
        onnxruntime.set_default_logger_severity(FATAL)  # the cause was logged once
        raise ProviderMissing(
            f"{file.path}: {provider} is installed but cannot start on this machine"
        )
    session._model_bytes = None  # otherwise it keeps a second copy of all weights
    return session


def _describe(nodes: Sequence[onnxruntime.NodeArg]) -> dict[str, TensorSpec]:
    return {
        node.name: TensorSpec(
            DTYPES.get(node.type, node.type),
            tuple(size if isinstance(size, int) else None for size in node.shape),
        )
        for node in nodes
    }
