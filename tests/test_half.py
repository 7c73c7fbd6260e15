"""Half precision: an fp16 graph answers about as fp32 does, through the same inputs and outputs."""

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from service.runtime.session import Session
from service.settings import Provider
from tests.conftest import COLOURS
from training.half import NoDevice, check_device, halve


def test_a_halved_graph_computes_in_fp16_and_takes_and_gives_what_it_did(tmp_path: Path) -> None:
    graph, target = tmp_path / "model.onnx", tmp_path / "half.onnx"
    onnx.save(onnx.parser.parse_model(COLOURS), graph)
    halve(graph, target)
    left, right = (Session(path, Provider.CPU, 1) for path in (graph, target))
    assert (left.inputs, left.outputs) == (right.inputs, right.outputs)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    [expected], [found] = (s.run({"pixels": pixels}, ["logits"]) for s in (left, right))
    np.testing.assert_allclose(found, expected, rtol=2e-3)
    assert not np.array_equal(found, expected)
    constants = [tensor.data_type for tensor in onnx.load(target).graph.initializer]
    assert onnx.TensorProto.FLOAT not in constants


def test_what_fp16_cannot_do_stands_where_it_is_needed(tmp_path: Path) -> None:
    """An operator that stays in fp32 has casts around it; a valid graph is in order."""
    graph, target = tmp_path / "model.onnx", tmp_path / "half.onnx"
    clamped = COLOURS.replace("logits = Mul(", "lowest = Max(vector, scale)\n    logits = Mul(")
    onnx.save(onnx.parser.parse_model(clamped.replace("Mul(vector", "Mul(lowest")), graph)
    halve(graph, target)
    onnx.checker.check_model(target, full_check=True)


def test_a_device_that_is_not_here_is_named() -> None:
    check_device(Provider.CPU)
    with pytest.raises(
        NoDevice, match="there is no TENSORRT device here; an fp16 graph is written"
    ):
        check_device(Provider.TENSORRT)
