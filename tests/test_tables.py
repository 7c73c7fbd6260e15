"""Tables of a graph: found in its file, and held once."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from service.runtime.session import Session
from service.runtime.tables import read_tables
from service.runtime.tensors import Array
from service.settings import Provider

ROOT = Path(__file__).parents[1]
WORDS, WIDTH = 3000, 128
GENERATOR = np.random.default_rng(0)

# What a process grows by, in MiB, when it opens a graph with so many threads for a lone run.
GROWTH = """
import sys, psutil
from pathlib import Path
from service.runtime.session import Session
from service.settings import Provider
graph, lone_threads = Path(sys.argv[1]), int(sys.argv[2])
before = psutil.Process().memory_info().rss
session = Session(graph, Provider.CPU, 1, lone_threads)
print((psutil.Process().memory_info().rss - before) / 2**20)
"""


def write(path: Path, table: np.ndarray, *, external: bool = False) -> Path:
    """A graph that looks rows up, in `table` and in a small one, and multiplies them."""
    weights = GENERATOR.normal(size=(4096, table.shape[1])).astype(np.float32)
    tensors = {"words": table, "places": table[:8], "weights": weights}
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["words", "ids"], ["word"]),
            helper.make_node("Gather", ["places", "ids"], ["place"]),
            helper.make_node("Add", ["word", "place"], ["sum"]),
            helper.make_node("Cast", ["sum"], ["cast"], to=TensorProto.FLOAT),
            helper.make_node("Transpose", ["weights"], ["turned"]),
            helper.make_node("MatMul", ["cast", "turned"], ["product"]),
        ],
        "looks-up",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch"])],
        [helper.make_tensor_value_info("product", TensorProto.FLOAT, ["batch", 4096])],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, path, save_as_external_data=external)
    return path


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "uint8"])
def test_only_what_is_large_and_looked_up_is_a_table(tmp_path: Path, dtype: str) -> None:
    words = GENERATOR.integers(0, 9, (WORDS, 4 * WIDTH)).astype(dtype)
    tables = read_tables(write(tmp_path / "graph.onnx", words).read_bytes())
    assert list(tables) == ["words"]
    assert tables["words"].dtype == dtype
    np.testing.assert_array_equal(tables["words"], words)


def test_packed_sizes_are_read(tmp_path: Path) -> None:
    """As writers of proto3 have them; onnx's own has one field for each size."""
    words = GENERATOR.normal(size=(WORDS, WIDTH)).astype(np.float32)
    path = write(tmp_path / "graph.onnx", words)
    content = path.read_bytes()
    apart = b"\x08\xb8\x17\x08\x80\x01"  # dims: 3000, dims: 128
    packed = b"\x0a\x04\xb8\x17\x80\x01"  # dims: [3000, 128]
    assert content.count(apart) == 1
    path.write_bytes(content.replace(apart, packed))
    np.testing.assert_array_equal(read_tables(path.read_bytes())["words"], words)


def test_tables_that_lie_elsewhere_or_are_of_another_type_are_left(tmp_path: Path) -> None:
    words = GENERATOR.normal(size=(WORDS, WIDTH))
    assert read_tables(write(tmp_path / "wide.onnx", words).read_bytes()) == {}
    out = write(tmp_path / "out.onnx", words.astype("float32"), external=True)
    assert read_tables(out.read_bytes()) == {}


def test_a_file_that_is_not_understood_has_none(tmp_path: Path) -> None:
    words = GENERATOR.normal(size=(WORDS, WIDTH)).astype(np.float32)
    content = write(tmp_path / "graph.onnx", words).read_bytes()
    nonsense = [b"", b"\0" * 2**20, b"\xff" * 2**20, b"no graph"]
    cut_off = [content[:end] for end in (40, 300, 700_000)]
    for broken in [*nonsense, *cut_off]:
        assert read_tables(broken) == {}


def test_answers_are_the_same_with_one_table_for_two_sessions(tmp_path: Path) -> None:
    words = GENERATOR.normal(size=(WORDS, WIDTH)).astype(np.float32)
    graph = write(tmp_path / "graph.onnx", words)
    feeds = {"ids": np.arange(8)}
    [expected] = Session(graph, Provider.CPU, 1).run(feeds, ["product"])
    shared = Session(graph, Provider.CPU, 1, exclusive_threads=2)
    for exclusive in (False, True):
        [found] = shared.run(feeds, ["product"], exclusive=exclusive)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def inner(name: str, table: str) -> onnx.GraphProto:
    """A branch that turns a tensor of the graph around it."""
    return helper.make_graph(
        [helper.make_node("Transpose", [table], [name])],
        name,
        [],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [600, 600])],
    )


def test_what_other_nodes_use_as_well_is_no_table(tmp_path: Path) -> None:
    """onnxruntime moves the two transpositions together, by turning the tensor between them."""
    table = GENERATOR.normal(size=(600, 600)).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"]),
        helper.make_node("Transpose", ["square"], ["turned"]),
        helper.make_node("Add", ["turned", "table"], ["sum"]),
        helper.make_node("Transpose", ["sum"], ["back"]),
    ]
    graph = helper.make_graph(
        nodes,
        "turns",
        [
            helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch"]),
            helper.make_tensor_value_info("square", TensorProto.FLOAT, [600, 600]),
        ],
        [
            helper.make_tensor_value_info("rows", TensorProto.FLOAT, ["batch", 600]),
            helper.make_tensor_value_info("back", TensorProto.FLOAT, [600, 600]),
        ],
        [numpy_helper.from_array(table, "table")],
    )
    path = tmp_path / "graph.onnx"
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    square = GENERATOR.normal(size=(600, 600)).astype(np.float32)
    feeds: dict[str, Array] = {"ids": np.arange(4), "square": square}
    for exclusive in (False, True):
        rows, back = Session(path, Provider.CPU, 1, 2).run(
            feeds, ["rows", "back"], exclusive=exclusive
        )
        np.testing.assert_array_equal(rows, table[:4])
        np.testing.assert_allclose(back, (square.T + table).T, rtol=1e-6)
    # The same where only a branch uses it otherwise.
    del graph.node[1:], graph.input[1:], graph.output[:]
    graph.node.append(
        helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True)))
    )
    branches = {"then_branch": inner("then", "table"), "else_branch": inner("else", "table")}
    graph.node.append(helper.make_node("If", ["yes"], ["chosen"], **branches))
    graph.output.append(helper.make_tensor_value_info("chosen", TensorProto.FLOAT, [600, 600]))
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    assert read_tables(path.read_bytes()) == {}


def test_two_sessions_hold_a_table_once(tmp_path: Path) -> None:
    words = np.ones((64 * 2**20 // 4 // WIDTH, WIDTH), np.float32)
    graph = write(tmp_path / "graph.onnx", words)
    one, two = (
        float(
            subprocess.run(
                [sys.executable, "-c", GROWTH, str(graph), exclusive_threads],
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=True,
            ).stdout
        )
        for exclusive_threads in ("1", "2")
    )
    assert one > 64
    assert two < one + 32
