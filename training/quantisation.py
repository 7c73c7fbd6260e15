"""Quantisation: a graph for the CPU computes in int8, each tensor on a scale that was fixed before.

The scales are static: they come from ranges that were seen on real samples, once, and are stored.
Scales that are taken from each batch (dynamic quantisation) would make an answer depend on its
neighbours. Weights are int8 with a scale for each channel, activations uint8, since onnxruntime is
fastest so on x86; weights keep to 7 bits, for the sums of AVX2's int8 products saturate at 16.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from pydantic import ValidationError

from service.model.specs import Frozen, Sha256
from service.runtime.session import Session
from service.settings import Provider
from training.errors import TrainingError
from training.export import Feeds
from training.likeness import LabelFigures, VectorFigures

Ranges = Mapping[str, tuple[float, float]]  # tensor of the graph -> its lowest and highest value

DIGITS = 6  # significant ones of a stored range: a scale has 256 steps


class CalibrationMismatch(TrainingError):
    """The stored ranges are not those of this graph."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Which nodes of an encoder's graph become int8."""

    calibration: Path  # their ranges, and the verdict
    operators: tuple[str, ...]
    spared: int  # so many of the first operator's first nodes stay fp32: they lose most
    outputs: bool = True  # whether their outputs are int8 as well, or their inputs alone


class Verdict(Frozen):
    """Whether the int8 graph may ship, and why."""

    accepted: bool
    reason: str
    figures: LabelFigures | VectorFigures
    machine: str
    day: date


class Calibration(Frozen):
    """What turns an encoder's fp32 graph into its int8 graph, without any data."""

    encoder: str
    weights: Sha256  # of the file of weights that the ranges belong to
    ranges: dict[str, tuple[float, float]]
    verdict: Verdict


def collect_ranges(
    graph: Path, recipe: Recipe, batches: Iterable[Feeds], threads: int = 1
) -> dict[str, tuple[float, float]]:
    """The range of every tensor that `quantise` asks for.

    A range is the mean of the batches' lowest and highest values, so that a single outlier does
    not coarsen the scale for all; batches of about eight do well.
    """
    model = onnx.load(graph)
    names = quantised_tensors(model, recipe)
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


def quantise(graph: Path, recipe: Recipe, ranges: Ranges, target: Path) -> None:
    """Write the int8 graph of an fp32 graph to `target`.

    Raises:
        CalibrationMismatch: the graph has a tensor that no range was stored for.
    """
    model = onnx.load(graph)
    if missing := [name for name in quantised_tensors(model, recipe) if name not in ranges]:
        raise CalibrationMismatch(
            f"{graph.name} has {len(missing)} tensors without a stored range, the first is"
            f" {missing[0]}; run `python -m training calibrate` for this graph"
        )
    # Zero must have an exact value, for convolutions pad with it.
    data = {
        name: (np.float32(min(low, 0)), np.float32(max(high, 0)))
        for name, (low, high) in ranges.items()
    }
    quantizer = QDQQuantizer(
        model,
        per_channel=True,
        reduce_range=True,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, data),
        nodes_to_quantize=[node.name for node in _quantised_nodes(model, recipe)],
        nodes_to_exclude=[],
        op_types_to_quantize=list(recipe.operators),
        extra_options={
            "OpTypesToExcludeOutputQuantization": [] if recipe.outputs else list(recipe.operators)
        },
    )
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    onnx.save(quantizer.model.model, target)


def quantised_tensors(model: onnx.ModelProto, recipe: Recipe) -> list[str]:
    """What enters the nodes that become int8, and leaves them, in the graph's order."""
    constants = {tensor.name for tensor in model.graph.initializer}
    found = [
        name
        for node in _quantised_nodes(model, recipe)
        for name in (*node.input, *(node.output if recipe.outputs else ()))
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


def _quantised_nodes(model: onnx.ModelProto, recipe: Recipe) -> list[onnx.NodeProto]:
    """The recipe's nodes; a product of two activations, as attention has them, is none of them."""
    constants = {tensor.name for tensor in model.graph.initializer}
    nodes = [
        node
        for node in model.graph.node
        if node.op_type in recipe.operators
        and (node.op_type != "MatMul" or node.input[1] in constants)
    ]
    spared = [node.name for node in nodes if node.op_type == recipe.operators[0]][: recipe.spared]
    return [node for node in nodes if node.name not in spared]


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
