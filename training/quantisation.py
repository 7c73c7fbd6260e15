"""Quantisation: a graph for the CPU computes in int8, each tensor on a scale that was fixed before.

The scales are static: they come from ranges that were seen on real samples, once, and are stored.
Scales that are taken from each batch (dynamic quantisation) would make an answer depend on its
neighbours. Weights are int8 with a scale for each channel, activations uint8, since onnxruntime is
fastest so on x86; weights keep to 7 bits, for the sums of AVX2's int8 products saturate at 16.
"""

from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from pydantic import ValidationError

from service.limits import core_budget
from service.manifest import Frozen, Sha256
from service.session import Session
from service.settings import Provider
from training.errors import TrainingError
from training.export import Feeds

Ranges = Mapping[str, tuple[float, float]]  # tensor of the graph -> its lowest and highest value

QUANTISED = ("Conv", "Clip", "Add", "Gemm")
# The first convolutions see three channels and raw contrasts: they gain no time, and lose most.
SPARED = 2
DIGITS = 6  # significant ones of a stored range: a scale has 256 steps


class CalibrationMismatch(TrainingError):
    """The stored ranges are not those of this graph."""


class Figures(Frozen):
    """int8 beside fp32 on samples that gave no ranges; ratios above 1 say that int8 is better."""

    held_out: int
    top1_fp32: float | None = None  # None: the samples have no labels
    top1_int8: float | None = None
    agreement: float  # share of samples whose first label is the same
    cosine: float  # mean, of the vectors
    batch_difference: float  # greatest, of a probability: alone and among sixteen
    speed_1: float  # time of fp32 / time of int8, one sample a batch
    speed_8: float


class Verdict(Frozen):
    """Whether the int8 graph may ship, and why."""

    accepted: bool
    reason: str
    figures: Figures
    machine: str
    day: date


class Calibration(Frozen):
    """What turns an encoder's fp32 graph into its int8 graph, without any data."""

    encoder: str
    weights: Sha256  # of the file of weights that the ranges belong to
    ranges: dict[str, tuple[float, float]]
    verdict: Verdict


MOST_LOSS = 0.02  # of top-1
LEAST_AGREEMENT = 0.95
MOST_BATCH_DIFFERENCE = 1e-4
LEAST_COSINE = 0.9  # of any one picture at import; a hundredth of real ones are below 0.972
LEAST_SPEED = 1.1  # below it the gain is within what a busy machine takes away


def judge(figures: Figures) -> tuple[bool, str]:
    """Accepted or not, with the reasons."""
    objections = []
    if figures.top1_fp32 is not None and figures.top1_int8 is not None:
        loss = figures.top1_fp32 - figures.top1_int8
        if not loss <= MOST_LOSS:
            objections.append(f"top-1 falls by {loss:.3f}, {MOST_LOSS} is allowed")
    if not figures.agreement >= LEAST_AGREEMENT:
        objections.append(
            f"it agrees with fp32 on {figures.agreement:.3f}, {LEAST_AGREEMENT} is wanted"
        )
    if not figures.batch_difference <= MOST_BATCH_DIFFERENCE:
        objections.append(
            f"an answer changes by {figures.batch_difference:.1e} with its batch,"
            f" {MOST_BATCH_DIFFERENCE:.0e} is allowed"
        )
    if not min(figures.speed_1, figures.speed_8) > LEAST_SPEED:
        objections.append(
            f"it is {figures.speed_1} and {figures.speed_8} times as fast as fp32 in batches of"
            f" 1 and 8, more than {LEAST_SPEED} is wanted"
        )
    return not objections, "; ".join(objections) or "within every limit, and faster"


def collect_ranges(
    graph: Path, batches: Iterable[Feeds], threads: int = 1
) -> dict[str, tuple[float, float]]:
    """The range of every tensor that `quantise` asks for.

    A range is the mean of the batches' lowest and highest values, so that a single outlier does
    not coarsen the scale for all; batches of about eight do well.
    """
    model = onnx.load(graph)
    names = quantised_tensors(model)
    given = {output.name for output in model.graph.output}
    for name in names:
        if name not in given:
            model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    watched = graph.with_suffix(".watched.onnx")
    onnx.save(model, watched)
    try:
        session = Session(watched, Provider.CPU, threads)
    finally:
        watched.unlink()
    seen = np.array(
        [[(array.min(), array.max()) for array in session.run(feeds, names)] for feeds in batches]
    )  # [batches, tensors, 2]
    means = seen.mean(axis=0, dtype=np.float64)
    return {
        name: (_short(low), _short(high)) for name, (low, high) in zip(names, means, strict=True)
    }


def quantise(graph: Path, ranges: Ranges, target: Path) -> None:
    """Write the int8 graph of an fp32 graph to `target`.

    Raises:
        CalibrationMismatch: the graph has a tensor that no range was stored for.
    """
    model = onnx.load(graph)
    if missing := [name for name in quantised_tensors(model) if name not in ranges]:
        raise CalibrationMismatch(
            f"{graph.name} has {len(missing)} tensors without a stored range, the first is"
            f" {missing[0]}; run `python -m training calibrate` for this graph"
        )
    # Zero must have an exact value, for convolutions pad with it.
    data = {
        name: (np.float32(min(low, 0)), np.float32(max(high, 0)))
        for name, (low, high) in ranges.items()
    }
    convolutions = [node.name for node in model.graph.node if node.op_type == "Conv"]
    quantizer = QDQQuantizer(
        model,
        per_channel=True,
        reduce_range=True,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, data),
        nodes_to_quantize=[],
        nodes_to_exclude=convolutions[:SPARED],
        op_types_to_quantize=list(QUANTISED),
        extra_options={},
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    onnx.save(quantizer.model.model, target)


def check_likeness(fp32: Path, int8: Path, batches: Iterable[Feeds], vector: str) -> float:
    """The lowest cosine between the two graphs' vectors.

    Args:
        vector: the output float[N, width] that is compared.

    Raises:
        CalibrationMismatch: it is below `LEAST_COSINE`; the ranges, or this processor, are wrong.
    """
    sessions = [Session(graph, Provider.CPU, core_budget()) for graph in (fp32, int8)]
    lowest = 1.0
    for feeds in batches:
        [left], [right] = (session.run(feeds, [vector]) for session in sessions)
        lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
        found = float(((left * right).sum(axis=1) / lengths).min())
        if not found >= LEAST_COSINE:  # so that not-a-number fails as well
            raise CalibrationMismatch(
                f"on this processor a vector of int8 has a cosine of {found:.3f} with that of fp32;"
                f" at least {LEAST_COSINE} is wanted"
            )
        lowest = min(lowest, found)
    return lowest


def quantised_tensors(model: onnx.ModelProto) -> list[str]:
    """What enters and leaves the nodes that may become int8, in the graph's order."""
    constants = {tensor.name for tensor in model.graph.initializer}
    found = [
        name
        for node in model.graph.node
        if node.op_type in QUANTISED
        for name in (*node.input, *node.output)
        if name and name not in constants
    ]
    return list(dict.fromkeys(found))


def read_calibration(path: Path, weights: str | None) -> Calibration:
    """The stored ranges and verdict.

    Args:
        weights: SHA-256 of the weights that the ranges must belong to.

    Raises:
        CalibrationMismatch: the file cannot be read, or belongs to other weights.
    """
    try:
        calibration = Calibration.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise CalibrationMismatch(f"{path.name} cannot be read: {error}") from error
    if calibration.weights != weights:
        raise CalibrationMismatch(
            f"{path.name} has the ranges of weights {calibration.weights[:12]},"
            f" not of {(weights or 'none')[:12]}"
        )
    return calibration


def write_calibration(calibration: Calibration, path: Path) -> None:
    """As JSON, a range a line, so that a change is seen for what it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(calibration.model_dump_json(indent=1) + "\n", encoding="utf-8")


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
