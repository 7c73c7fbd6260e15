"""Package: exports of many kinds are described rightly, or refused with what to do."""

from itertools import product
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest
from onnx import TensorProto, external_data_helper, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers

from service.errors import BadModel, SensoriumError
from service.model.model import Model, load
from service.model.tasks.classify import ClassifySpec
from service.settings import Settings
from tests.conftest import WORDS, png, tone
from tests.test_package_command import package
from training.packaging import Unclear
from training.packaging.graph import make_whole

LABELS = "red\ngreen\nblue\n"
IMAGE = (
    "graph.onnx --modality image --name m --mean 0 0 0 --std 1 1 1 --labels labels.txt"
    " --example a.png --tolerance 0.01"
)
SCORES = """
<ir_version: 9, opset_import: ["" : 18, "local" : 1]>
g (float[N,3,8,8] x) => (TYPE[N,3] y)
<float[3,3] w = {5, -3, 1, -2, 4, -1, 1, -2, 6}, float spread = {4}, int64[2] flat = {0, -1},
 int64[2] wide = {2, 3}, int64[1] last = {1}, float small = {1e-6}, float one = {0.999999}> {
    pooled = GlobalAveragePool(x)
    vector = Flatten(pooled)
    product = MatMul(vector, w)
    scores = Mul(product, spread)
    BODY
}
"""
FUNCTION = """
<opset_import: ["" : 18], domain: "local">
End (a) => (b) {
    c = OPERATOR(a)
    b = Identity(c)
}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> Path:
    """What people have beside their graph."""
    (tmp_path / "labels.txt").write_text(LABELS)
    (tmp_path / "a.png").write_bytes(png((200, 30, 40)))
    (tmp_path / "a.wav").write_bytes(tone(0.5))
    (tmp_path / "a.txt").write_text("red cat")
    return tmp_path


def save(folder: Path, body: str, kind: str = "float", functions: str = "") -> None:
    text = SCORES.replace("BODY", body).replace("TYPE", kind) + functions
    onnx.save(onnx.parser.parse_model(text), folder / "graph.onnx")


def opened(folder: Path) -> Model:
    return load(folder / "models/m/1", Settings())


def activation(folder: Path) -> str:
    classify = opened(folder).manifest.tasks["classify"]
    assert isinstance(classify, ClassifySpec)
    return classify.activation


# What stands behind the activation `s` of `scores`, and makes `y` of it.
TAILS = {
    "nothing": "y = Identity(s)",
    "identities": "a = Identity(s)\n b = Identity(a)\n y = Identity(b)",
    "half": "h = Cast<to = 10>(s)\n y = Cast<to = 1>(h)",
    "reshape": "y = Reshape(s, flat)",
    "flatten": "y = Flatten(s)",
    "squeeze": "a = Unsqueeze(s, wide)\n y = Squeeze(a, wide)",
    "transposed": "a = Transpose<perm = [1, 0]>(s)\n y = Transpose<perm = [1, 0]>(a)",
    "dropout": "y = Dropout(s)",
    "function": "",
}
ACTIVATIONS = {
    "Softmax": ("s = Softmax<axis = -1>(scores)", "none"),
    "LogSoftmax": ("s = LogSoftmax<axis = -1>(scores)", "log_softmax"),
    "Sigmoid": ("s = Sigmoid(scores)", "none"),
    "Exp of LogSoftmax": ("l = LogSoftmax<axis = -1>(scores)\n s = Exp(l)", "none"),
    "Log of Softmax": ("l = Softmax<axis = -1>(scores)\n s = Log(l)", "log_softmax"),
    "by hand": (
        "m = ReduceMax<keepdims = 1>(scores, last)\n d = Sub(scores, m)\n e = Exp(d)\n"
        " t = ReduceSum<keepdims = 1>(e, last)\n s = Div(e, t)",
        "none",
    ),
    "clipped": ("c = Softmax<axis = -1>(scores)\n s = Clip(c, small, one)", "none"),
    "clipped Sigmoid": ("c = Sigmoid(scores)\n s = Clip(c, small, one)", "none"),
    "in fp16": ("k = Cast<to = 10>(scores)\n p = Softmax(k)\n s = Cast<to = 1>(p)", "none"),
    "none": ("s = Identity(scores)", "softmax"),
    "Relu": ("s = Relu(scores)", "softmax"),
}
BOTH = [(a, t) for a, t in product(ACTIVATIONS, TAILS)]


@pytest.mark.parametrize(("name", "tail"), BOTH)
def test_an_activation_is_found_behind_other_nodes(folder: Path, name: str, tail: str) -> None:
    """99 variants; each answers as onnxruntime does of the file itself."""
    body, left = ACTIVATIONS[name]
    if tail == "function":
        # Called twice, for minus minus is plus.
        text = f"{body}\n once = local.End(s)\n y = local.End(once)"
        save(folder, text, functions=FUNCTION.replace("OPERATOR", "Neg"))
    else:
        save(folder, f"{body}\n {TAILS[tail]}")
    if tail == "function" and "Sigmoid" in name:  # what two negations leave is not to be seen
        with pytest.raises(Unclear, match="say --activation none if y holds probabilities"):
            package(folder, IMAGE)
        return
    package(folder, IMAGE)
    assert activation(folder) == left
    session = onnxruntime.InferenceSession(folder / "graph.onnx")
    pixels = np.random.default_rng(1).normal(size=(4, 3, 8, 8)).astype(np.float32)
    [raw] = session.run(None, {"x": pixels})
    model = opened(folder)
    served = [model.tasks["classify"].interpret({"y": row}) for row in raw]
    exponentials = np.exp(raw - raw.max(axis=1, keepdims=True))
    softmax = exponentials / exponentials.sum(axis=1, keepdims=True)
    right = {"none": raw, "log_softmax": np.exp(raw), "softmax": softmax}[left]
    np.testing.assert_allclose(served, np.clip(right, 0, 1), atol=1e-5)


@pytest.mark.parametrize("operator", ["Softmax", "LogSoftmax", "Sigmoid"])
def test_an_activation_inside_a_function_is_found(folder: Path, operator: str) -> None:
    save(folder, "y = local.End(scores)", functions=FUNCTION.replace("OPERATOR", operator))
    package(folder, IMAGE)
    assert activation(folder) == ("log_softmax" if operator == "LogSoftmax" else "none")


@pytest.mark.parametrize("operator", ["HardSigmoid", "Sigmoid"])
def test_what_cannot_be_told_is_asked_for(folder: Path, operator: str) -> None:
    save(folder, f"a = {operator}(scores)\n y = Abs(a)")
    with pytest.raises(Unclear, match="say --activation none if y holds probabilities"):
        package(folder, IMAGE)
    package(folder, f"{IMAGE} --activation none")
    assert activation(folder) == "none"


@pytest.mark.parametrize("given", ["softmax", "sigmoid", "log_softmax"])
def test_an_activation_that_would_be_done_twice_is_refused(folder: Path, given: str) -> None:
    save(folder, "y = Softmax<axis = -1>(scores)")
    with pytest.raises(Unclear, match=rf"leave --activation {given} out"):
        package(folder, f"{IMAGE} --activation {given}")


@pytest.mark.parametrize(
    ("content", "labels"),
    [
        (b"\xef\xbb\xbfred\r\ngreen\r\nblue\r\n", ("red", "green", "blue")),
        (LABELS.encode("utf-16"), ("red", "green", "blue")),
        (b"red\ngreen\nblue\n\n \n", ("red", "green", "blue")),
        (b"red\rgreen\rblue", ("red", "green", "blue")),
        (b" red \n\tgreen\nblue", ("red", "green", "blue")),
        ("grün\u2028é\nrot\n青".encode(), ("grün\u2028é", "rot", "青")),
    ],
)
def test_labels_are_taken_as_editors_save_them(
    folder: Path, content: bytes, labels: tuple[str, ...]
) -> None:
    save(folder, "y = Identity(scores)")
    (folder / "labels.txt").write_bytes(content)
    package(folder, IMAGE)
    assert opened(folder).labels == labels


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("l.txt", b"red\n\nblue\n", "label 2 is ''"),
        ("l.txt", "rot\ngrün\nblau".encode("latin-1"), "neither a label a line"),
        ("l.txt", "a\nb\nc".encode("utf-16-le"), "neither a label a line"),
        ("l.txt", b"", "holds no label"),
        ("l.json", b'{"id2label": {"0": "a", "1": null, "2": "c"}}', "label 2 is None"),
        ("l.json", b'{"id2label": {"1": "a", "2": "b", "3": "c"}}', "neither a label a line"),
        ("l.json", b'["a", "b", "c"]', "neither a label a line"),
    ],
)
def test_labels_that_cannot_be_right_are_refused(
    folder: Path, name: str, content: bytes, reason: str
) -> None:
    save(folder, "y = Identity(scores)")
    (folder / name).write_bytes(content)
    with pytest.raises(Unclear, match=reason):
        package(folder, IMAGE.replace("labels.txt", name))


def test_a_config_with_a_byte_order_mark_is_read(folder: Path) -> None:
    save(folder, "y = Identity(scores)")
    content = '{"id2label": {"0": "a", "2": "c", "1": "b"}}'.encode("utf-8-sig")
    (folder / "config.json").write_bytes(content)
    package(folder, IMAGE.replace("labels.txt", "config.json"))
    assert opened(folder).labels == ("a", "b", "c")


def test_labels_of_one_name_are_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(folder, "y = Identity(scores)")
    (folder / "labels.txt").write_text("crane\nred\ncrane\n")
    package(folder, IMAGE)
    assert "NOTE: answers cannot tell labels of one name apart: crane" in capsys.readouterr().out


def outside(tensor: TensorProto, folder: Path) -> TensorProto:
    (folder / "w.bin").write_bytes(tensor.raw_data)
    external_data_helper.set_external_data(tensor, "w.bin", 0, len(tensor.raw_data))
    tensor.ClearField("raw_data")
    return tensor


WEIGHTS = np.arange(9, dtype=np.float32).reshape(3, 3)


def save_external(folder: Path, place: str) -> None:
    """A graph whose weights lie in w.bin: of the main graph, a branch, a constant or a function."""
    tensor = outside(numpy_helper.from_array(WEIGHTS, "w"), folder)
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
    ]
    product = helper.make_node("MatMul", ["f", "w"], ["y"])
    initializers: list[TensorProto] = []
    functions = []
    opset = helper.make_opsetid("", 18)
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])
    if place == "main graph":
        initializers, nodes = [tensor], [*nodes, product]
    elif place == "constant":
        nodes += [helper.make_node("Constant", [], ["w"], value=tensor), product]
    elif place == "function":
        body = [helper.make_node("Constant", [], ["w"], value=tensor)]
        body += [helper.make_node("MatMul", ["a", "w"], ["b"])]
        functions = [helper.make_function("local", "End", ["a"], ["b"], body, [opset])]
        nodes += [helper.make_node("End", ["f"], ["y"], domain="local")]
    else:
        yes = numpy_helper.from_array(np.array(True), "yes")
        branch = helper.make_graph([product], "branch", [], [output], [tensor])
        initializers = [yes]
        nodes += [helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch)]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])
    graph = helper.make_graph(nodes, "g", [x], [output], initializers)
    opsets = [opset, helper.make_opsetid("local", 1)]
    found = helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=functions)
    (folder / "graph.onnx").write_bytes(found.SerializeToString())


@pytest.mark.parametrize("place", ["main graph", "branch", "constant", "function"])
def test_weights_beside_the_graph_are_taken_in_wherever_they_belong(
    folder: Path, place: str
) -> None:
    save_external(folder, place)
    package(folder, IMAGE)
    (folder / "w.bin").unlink()
    model = opened(folder)
    assert model.graph.side_files is None
    [row] = model.run([model.decode(png((255, 0, 0)))])
    np.testing.assert_allclose(row["y"], WEIGHTS[0], atol=1e-5)


@pytest.mark.parametrize("place", ["main graph", "branch"])
def test_weights_that_are_not_there_are_missed(folder: Path, place: str) -> None:
    save_external(folder, place)
    (folder / "w.bin").unlink()
    with pytest.raises(Unclear, match="is not a whole ONNX file"):
        package(folder, IMAGE)


def test_weights_too_large_for_one_file_lie_beside_it_and_are_declared(tmp_path: Path) -> None:
    weights = np.ones((64, 64), np.float32)
    tensor = numpy_helper.from_array(weights, "w")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 64])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 64])
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    found = helper.make_model(helper.make_graph([node], "g", [x], [y], [tensor]))
    onnx.save(found, tmp_path / "large.onnx", save_as_external_data=True, size_threshold=0)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    whole = make_whole(tmp_path / "large.onnx", scratch, most_bytes=1000)
    [side] = whole.declared.side_files or ()
    assert (scratch / side.file).stat().st_size == weights.nbytes
    assert whole.path.stat().st_size < 1000


def test_a_declared_side_file_is_packaged_and_served(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for weights of more than two gigabytes, of which nobody waits for a test."""
    defaults = make_whole.__defaults__
    monkeypatch.setattr(make_whole, "__defaults__", (0,))
    monkeypatch.setattr("training.packaging.graph.SIDE_BYTES", 1)
    save_external(folder, "main graph")
    package(folder, IMAGE)
    assert defaults is not None
    model = opened(folder)
    [side] = model.graph.side_files or ()
    assert model.manifest.origin.sha256 == side.sha256, "heads know an encoder by its weights"
    [row] = model.run([model.decode(png((255, 0, 0)))])
    np.testing.assert_allclose(row["y"], WEIGHTS[0], atol=1e-5)


def test_a_fixed_batch_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = SCORES.replace("BODY", "y = Identity(scores)").replace("TYPE", "float")
    onnx.save(onnx.parser.parse_model(text.replace("[N,", "[1,")), folder / "graph.onnx")
    with pytest.raises(Unclear, match=r"--max-batch 8: the graph takes one item at a time"):
        package(folder, f"{IMAGE} --max-batch 8")
    package(folder, IMAGE)
    shown = capsys.readouterr().out
    assert "NOTE: the graph takes one item at a time" in shown
    assert "dynamic_axes" in shown


UNUSED = {
    "BFLOAT16": "more = Cast<to = 16>(vector)",
    "STRING": "more = Cast<to = 8>(vector)",
    "INT64": "more = ArgMax<axis = 1, keepdims = 1>(vector)",
    "DOUBLE": "more = Cast<to = 11>(vector)",
    "SEQUENCE": "more = SequenceConstruct(vector)",
    "BOOL": "more = Greater(vector, spread)",
}


@pytest.mark.parametrize("kind", UNUSED)
def test_an_output_that_no_task_reads_is_passed_over(folder: Path, kind: str) -> None:
    save(folder, f"y = Identity(scores)\n {UNUSED[kind]}")
    found = onnx.load(folder / "graph.onnx")
    if kind == "SEQUENCE":
        more = helper.make_tensor_sequence_value_info("more", TensorProto.FLOAT, ["N", 3])
    else:
        width = 1 if kind == "INT64" else 3
        more = helper.make_tensor_value_info("more", getattr(TensorProto, kind), ["N", width])
    found.graph.output.append(more)
    onnx.save(found, folder / "graph.onnx")
    package(folder, IMAGE)
    assert opened(folder).labels == ("red", "green", "blue")


@pytest.mark.parametrize("shape", [["N", 100, 4], ["N", 3, 8, 8], ["N"], ["N", 5, 77]])
def test_outputs_of_other_tasks_are_refused_with_what_there_is(
    folder: Path, shape: list[str | int]
) -> None:
    save(folder, "y = Identity(scores)")
    found = onnx.load(folder / "graph.onnx")
    zeros = helper.make_node("Identity", ["x"], ["boxes"])
    found.graph.node.append(zeros)
    del found.graph.output[:]
    found.graph.output.append(helper.make_tensor_value_info("boxes", TensorProto.FLOAT, shape))
    if shape != ["N", 3, 8, 8]:
        found.graph.node.pop()
        dims = [1 if size == "N" else int(size) for size in shape]
        constant = numpy_helper.from_array(np.zeros(dims, np.float32), "c")
        found.graph.node.append(helper.make_node("Constant", [], ["boxes"], value=constant))
    onnx.save(found, folder / "graph.onnx")
    for flags in ("", "--embed boxes"):
        command = IMAGE if not flags else f"{IMAGE} {flags}"
        with pytest.raises(Unclear, match="it has no task for other outputs"):
            package(folder, command)


POSITIONS = """
<ir_version: 9, opset_import: ["" : 18]>
words (INPUTS) => (float[N,8] vector)
<int64[1] one = {1}, int64 depth = {8}, float[2] off_on = {0, 1}, int64 zero = {0},
 int64 step = {1}, float[12] table = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}> {
    embedded = OneHot(input_ids, depth, off_on)
    shape = Shape<start = 1>(input_ids)
    length = Squeeze(shape)
    places = Range(zero, length, step)
    found = Gather(table, places)
    column = Unsqueeze(found, one)
    placed = Add(embedded, column)
    vector = ReduceMean<keepdims = 0>(placed, one)
}
"""
TEXT = (
    "graph.onnx --modality text --name m --embed vector --tokenizer tokenizer.json --example a.txt"
)


def save_tokenizer(folder: Path, *, pad: bool = True) -> None:
    words = ["[PAD]"] * pad + ["[UNK]", "red", "cat"]
    found = Tokenizer(models.WordLevel({w: n for n, w in enumerate(words)}, unk_token="[UNK]"))
    found.pre_tokenizer = pre_tokenizers.Whitespace()
    found.save(str(folder / "tokenizer.json"))


@pytest.mark.parametrize(
    ("length", "fits"), [(3, True), (11, True), (12, True), (13, False), (16, False), (512, False)]
)
def test_the_longest_text_is_tried(folder: Path, length: int, fits: bool) -> None:
    save_tokenizer(folder)
    text = POSITIONS.replace("INPUTS", "int64[N,L] input_ids")
    onnx.save(onnx.parser.parse_model(text), folder / "graph.onnx")
    command = f"{TEXT} --max-length {length}"
    if fits:
        package(folder, command)
        model = opened(folder)
        assert len(model.decode(b"red " * 99).data) == length
        return
    reason = rf"models/m/1/model\.onnx: .*max_length: a text of {length} tokens fails; lower it"
    with pytest.raises(BadModel, match=reason):
        package(folder, command)
    assert not list(folder.glob("models/*/*"))


def test_a_graph_without_a_mask_needs_no_pad_token(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_tokenizer(folder, pad=False)
    text = POSITIONS.replace("INPUTS", "int64[N,L] input_ids")
    onnx.save(onnx.parser.parse_model(text), folder / "graph.onnx")
    package(folder, f"{TEXT} --max-length 12")
    assert "NOTE: the graph has no attention_mask" in capsys.readouterr().out
    onnx.save(onnx.parser.parse_model(WORDS), folder / "graph.onnx")
    with pytest.raises(Unclear, match="say --pad-token TOKEN"):
        package(folder, f"{TEXT} --max-length 12 --version 2")


def test_a_graph_in_training_mode_is_refused(folder: Path) -> None:
    """BatchNormalization that takes its moments of the batch."""
    ones = ", float[3] ones = {1, 1, 1}, float[3] zeros = {0, 0, 0}> {"
    text = SCORES.replace("TYPE", "float").replace("> {", ones, 1)
    batch = "y, m, v = BatchNormalization<training_mode = 1>(scores, ones, zeros, zeros, ones)"
    found = onnx.parser.parse_model(text.replace("BODY", batch))
    onnx.save(found, folder / "graph.onnx")
    with pytest.raises(BadModel, match=r"mixes the items of a batch.*model\.eval\(\)"):
        package(folder, IMAGE)
    with pytest.raises(BadModel, match="export it in evaluation mode"):
        package(folder, f"{IMAGE} --max-batch 1")


@pytest.mark.parametrize("values", ["NaN", "2.5"])
def test_an_example_without_a_probability_is_refused(folder: Path, values: str) -> None:
    name = "nought" if values == "NaN" else "spread"
    body = "nought = Sub(spread, spread)\n ratio = Div(spread, spread)\n" if values == "2.5" else (
        "zero = Sub(spread, spread)\n nought = Div(zero, zero)\n"
    )  # fmt: skip
    save(folder, f"{body} a = Mul(scores, {name})\n y = Add(a, {name})")
    with pytest.raises(SensoriumError, match="output y holds"):
        package(folder, f"{IMAGE} --activation none")
