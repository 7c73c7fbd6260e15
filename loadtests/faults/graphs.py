"""Graphs with a fault in them, as model folders: one that fails, and one that never ends.

Both look up a picture's reddest level in a table that is 0, 1, 2, ...: their vector is this level.
A picture of the level `MARKER` sets the fault off.
"""

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import onnx
import yaml
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

MARKER = 255
LEVEL = 40  # of the example
SIDE = 8
FOREVER = 2**40  # turns of a loop
BATCH = 32


def picture(level: int) -> bytes:
    """A PNG of one shade of red."""
    file = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), (level, 0, 0)).save(file, "PNG")
    return file.getvalue()


def write_brittle(models: Path, name: str = "brittle", version: int = 1) -> None:
    """Its table ends before the marker, so that a batch that holds the marker fails."""
    table = np.arange(MARKER, dtype=np.float32).reshape(-1, 1)
    arrays = [numpy_helper.from_array(table, "table")]
    _write(models, name, [_lookup("levels")], arrays, version)


def write_endless(models: Path) -> None:
    """With the marker in the batch it turns in a loop until the process ends."""
    table = np.arange(MARKER + 1, dtype=np.float32).reshape(-1, 1)
    constants = {
        "marker": np.array(MARKER, np.int64),
        "forever": np.array(FOREVER, np.int64),
        "once": np.array(1, np.int64),
        "true": np.array(True),
    }
    nodes = [
        helper.make_node("ReduceMax", ["levels"], ["highest"], keepdims=0),
        helper.make_node("Equal", ["highest", "marker"], ["is_marked"]),
        helper.make_node("Where", ["is_marked", "forever", "once"], ["turns"]),
        helper.make_node("Loop", ["turns", "true", "levels"], ["same_levels"], body=_turn()),
        _lookup("same_levels"),
    ]
    arrays = [numpy_helper.from_array(table, "table")]
    arrays += [numpy_helper.from_array(array, name) for name, array in constants.items()]
    _write(models, "endless", nodes, arrays)


def _lookup(levels: str) -> onnx.NodeProto:
    return helper.make_node("Gather", ["table", levels], ["vector"])


def _turn() -> onnx.GraphProto:
    """One turn of the loop, which changes nothing."""
    number = helper.make_tensor_value_info("number", TensorProto.INT64, [])
    go_on = helper.make_tensor_value_info("go_on", TensorProto.BOOL, [])
    going = helper.make_tensor_value_info("going", TensorProto.BOOL, [])
    before = helper.make_tensor_value_info("before", TensorProto.INT64, ["N"])
    after = helper.make_tensor_value_info("after", TensorProto.INT64, ["N"])
    nodes = [
        helper.make_node("Identity", ["go_on"], ["going"]),
        helper.make_node("Identity", ["before"], ["after"]),
    ]
    return helper.make_graph(nodes, "turn", [number, go_on, before], [going, after])


def _write(
    models: Path,
    name: str,
    nodes: list[onnx.NodeProto],
    arrays: list[onnx.TensorProto],
    version: int = 1,
) -> None:
    """The folder of a model that takes uint8[N, SIDE, SIDE, 3] and gives float32[N, 1]."""
    axes = numpy_helper.from_array(np.array([1, 2, 3], np.int64), "axes")
    first = [
        helper.make_node("Cast", ["pixels"], ["whole"], to=TensorProto.INT64),
        helper.make_node("ReduceMax", ["whole", "axes"], ["levels"], keepdims=0),
    ]
    graph = helper.make_graph(
        [*first, *nodes],
        name,
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info("vector", TensorProto.FLOAT, ["N", 1])],
        [axes, *arrays],
    )
    opset = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=9)
    onnx.checker.check_model(model)
    content = model.SerializeToString()
    folder = models / name / str(version)
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(content)
    (folder / "example.png").write_bytes(picture(LEVEL))
    (folder / "example.json").write_text(json.dumps({"embed": [LEVEL]}))
    (folder / "card.md").write_text(f"# {name}\n")
    manifest = {
        "format": 1,
        "name": name,
        "version": version,
        "description": "A small model with a fault in it.",
        "preprocessing": {"modality": "image", "input": "pixels", "size": [SIDE, SIDE]},
        "graphs": [{"file": "model.onnx", "sha256": hashlib.sha256(content).hexdigest()}],
        "tasks": {"embed": {"output": "vector", "width": 1}},
        "batching": {"max_batch": BATCH},
        "example": {"file": "example.png", "tolerance": {"fp32": 1e-3}},
        "origin": {
            "source": "made for a load test",
            "sha256": "0" * 64,
            "licence": "Apache-2.0",
            "data": "none",
        },
    }
    (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest))
