"""Files of a model folder: only what was declared is read, once, and never by onnxruntime."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper

from service.control.repository import Repository
from service.errors import BadModel
from service.model.manifest import read_manifest
from service.model.model import load
from service.model.tasks.classify import read_labels
from service.settings import Settings
from tests.conftest import png, write_colours, write_words

WEIGHTS = np.eye(3, dtype=np.float32)
OTHER = np.flip(WEIGHTS, 0).copy()
SIDE = "weights.bin"


def external(location: str = SIDE, **entries: str) -> TensorProto:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3, 3])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def value(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def model(
    nodes: list[onnx.NodeProto],
    initializers: list[TensorProto],
    *,
    functions: Any = (),
    sparse: Any = (),
) -> onnx.ModelProto:
    """Mean colour times the weights."""
    sides = numpy_helper.from_array(np.array([1, 2]), "sides")
    before = [
        helper.make_node("Cast", ["pixels"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "sides"], ["mean"], keepdims=0),
    ]
    pixels = helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["N", 8, 8, 3])
    graph = helper.make_graph(
        [*before, *nodes], "g", [pixels], [value("vector", "N", 3)], [sides, *initializers]
    )
    graph.sparse_initializer.extend(sparse)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=list(functions))


PRODUCT = helper.make_node("MatMul", ["mean", "w"], ["vector"])


def in_a_branch(tensor: TensorProto) -> onnx.ModelProto:
    def branch(name: str, tensors: list[TensorProto]) -> onnx.GraphProto:
        node = helper.make_node("MatMul", ["mean", "w" if tensors else "v"], [name])
        return helper.make_graph([node], name, [], [value(name, "N", 3)], tensors)

    yes = numpy_helper.from_array(np.array(True), "yes")
    branches = {"then_branch": branch("then", [tensor]), "else_branch": branch("else", [])}
    node = helper.make_node("If", ["yes"], ["vector"], **branches)
    return model([node], [yes, numpy_helper.from_array(WEIGHTS, "v")])


def in_a_constant(tensor: TensorProto) -> onnx.ModelProto:
    return model([helper.make_node("Constant", [], ["w"], value=tensor), PRODUCT], [])


def in_a_function(tensor: TensorProto) -> onnx.ModelProto:
    body = [
        helper.make_node("Constant", [], ["w"], value=tensor),
        helper.make_node("MatMul", ["a", "w"], ["b"]),
    ]
    opset = [helper.make_opsetid("", 18)]
    function = helper.make_function("local", "Turn", ["a"], ["b"], body, opset)
    call = helper.make_node("Turn", ["mean"], ["vector"], domain="local")
    return model([call], [], functions=[function])


def in_a_sparse_tensor(tensor: TensorProto) -> onnx.ModelProto:
    tensor.dims[:] = [3]
    sparse = onnx.SparseTensorProto(values=tensor, dims=[3, 3])
    sparse.indices.CopyFrom(numpy_helper.from_array(np.array([0, 4, 8]), "i"))
    return model([PRODUCT], [], sparse=[sparse])


def in_training_info(tensor: TensorProto) -> onnx.ModelProto:
    found = model([PRODUCT], [numpy_helper.from_array(WEIGHTS, "w")])
    algorithm = helper.make_graph([], "a", [], [], [tensor])
    found.training_info.add(algorithm=algorithm)
    return found


def compiled(_: TensorProto) -> onnx.ModelProto:
    context = helper.make_node(
        "EPContext", ["mean"], ["vector"], domain="com.microsoft", ep_cache_context="engine"
    )
    return model([context], [])


def plain(tensor: TensorProto) -> onnx.ModelProto:
    return model([PRODUCT], [tensor])


def write(models: Path, graph: onnx.ModelProto, **declared: str) -> Path:
    """A folder of such a graph; `declared` are the hashes of side files, by name."""
    folder = models / "turn/1"
    folder.mkdir(parents=True)
    content = graph.SerializeToString()
    (folder / "model.onnx").write_bytes(content)
    (folder / SIDE).write_bytes(WEIGHTS.tobytes())
    (folder / "example.png").write_bytes(png((200, 30, 40)))
    (folder / "example.json").write_text('{"embed": [200, 30, 40]}')
    (folder / "card.md").write_text("# Turn\n")
    entry: dict[str, Any] = {
        "file": "model.onnx",
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    if declared:
        entry["side_files"] = [{"file": f, "sha256": h} for f, h in declared.items()]
    manifest = {
        "format": 1,
        "name": "turn",
        "version": 1,
        "description": "Weights in a file of their own.",
        "preprocessing": {"modality": "image", "input": "pixels", "size": [8, 8]},
        "graphs": [entry],
        "tasks": {"embed": {"output": "vector", "width": 3}},
        "example": {"file": "example.png", "tolerance": {"fp32": 1e-4}},
        "origin": {"source": "tests", "licence": "Apache-2.0", "data": "none"},
    }
    (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest))
    return folder


HASH = hashlib.sha256(WEIGHTS.tobytes()).hexdigest()
Trick = Callable[[Path], object]


def replacing(make: Callable[[Path], object]) -> Trick:
    def trick(folder: Path) -> None:
        (folder / SIDE).rename(folder.parent / "outside.bin")
        make(folder / SIDE)

    return trick


TRICKS: dict[str, tuple[Trick, str]] = {
    "swapped": (lambda f: (f / SIDE).write_bytes(OTHER.tobytes()), "is not the file"),
    "cut off": (lambda f: os.truncate(f / SIDE, 12), "is not the file"),
    "longer": (lambda f: (f / SIDE).write_bytes(WEIGHTS.tobytes() + b"\0"), "is not the file"),
    "absent": (lambda f: (f / SIDE).unlink(), "there is no file weights.bin"),
    "symbolic link": (
        replacing(lambda p: p.symlink_to(p.parent.parent / "outside.bin")),
        "is a symbolic link",
    ),
    "hard link": (
        replacing(lambda p: p.hardlink_to(p.parent.parent / "outside.bin")),
        "has 2 hard links",
    ),
    "pipe": (replacing(os.mkfifo), "there is no file weights.bin"),
    "folder": (replacing(lambda p: p.mkdir()), "there is no file weights.bin"),
    "device": (replacing(lambda p: p.symlink_to("/dev/zero")), "there is no file weights.bin"),
}


@pytest.mark.parametrize("name", TRICKS)
def test_a_side_file_that_is_not_what_was_declared_is_refused(tmp_path: Path, name: str) -> None:
    folder = write(tmp_path, plain(external()), **{SIDE: HASH})
    assert load(folder, Settings()).manifest.name == "turn"
    trick, reason = TRICKS[name]
    trick(folder)
    with pytest.raises(BadModel) as refusal:
        load(folder, Settings())
    assert reason in str(refusal.value)


LOCATIONS = [
    "other.bin", "../weights.bin", "../../weights.bin", "/etc/hostname", "./weights.bin", "",
    "sub/weights.bin", "..", ".", "*/_ORT_MEM_ADDR_/*", "weights.bin\0", "/proc/self/mem", "\u202e",
]  # fmt: skip


@pytest.mark.parametrize("location", LOCATIONS)
def test_a_file_that_is_not_declared_is_not_read(tmp_path: Path, location: str) -> None:
    folder = write(tmp_path, plain(external(location)), **{SIDE: HASH})
    with pytest.raises(BadModel, match="which the manifest does not declare"):
        load(folder, Settings())


def test_side_files_must_be_declared(tmp_path: Path) -> None:
    folder = write(tmp_path, plain(external()))
    with pytest.raises(BadModel, match=r"'weights\.bin', which the manifest does not declare"):
        load(folder, Settings())


@pytest.mark.parametrize(
    "place",
    [in_a_branch, in_a_constant, in_a_function, in_a_sparse_tensor, in_training_info, compiled],
)
def test_weights_in_other_places_are_refused(
    tmp_path: Path, place: Callable[[TensorProto], onnx.ModelProto]
) -> None:
    folder = write(tmp_path, place(external()), **{SIDE: HASH})
    with pytest.raises(BadModel, match=r"outside its main graph|which reads compiled files"):
        load(folder, Settings())


@pytest.mark.parametrize(
    "entries",
    [
        {"offset": "4096", "length": "36"},
        {"offset": "-8", "length": "36"},
        {"offset": "18446744073709551615", "length": "36"},
        {"length": "37"},
        {"length": "12"},
        {"offset": "x"},
    ],
)
def test_a_place_beyond_the_side_file_is_refused(tmp_path: Path, entries: dict[str, str]) -> None:
    folder = write(tmp_path, plain(external(**entries)), **{SIDE: HASH})
    with pytest.raises(BadModel, match="onnxruntime cannot load it"):
        load(folder, Settings())


@pytest.mark.parametrize("entries", [{}, {"length": "36"}, {"offset": "0", "length": "36"}])
def test_what_happens_to_a_side_file_later_changes_nothing(
    tmp_path: Path, entries: dict[str, str]
) -> None:
    folder = write(tmp_path, plain(external(**entries)), **{SIDE: HASH})
    served = load(folder, Settings())

    def answer() -> list[float]:
        vector: list[float] = served.embed(png((1, 2, 3))).tolist()
        return vector

    assert answer() == [1, 2, 3]
    with (folder / SIDE).open("r+b") as file:  # in place
        file.write(OTHER.tobytes())
    assert answer() == [1, 2, 3]
    for path in (folder / SIDE, folder / "model.onnx"):
        os.truncate(path, 0)
    assert answer() == [1, 2, 3]


def test_a_session_keeps_no_copy_of_its_file(tmp_path: Path) -> None:
    session = load(write_colours(tmp_path), Settings()).session
    held = {type(v) for v in vars(session._session).values()}
    assert bytes not in held


@pytest.mark.parametrize(
    "content",
    [b"", b"no graph", b"\0" * 64, b"\xff" * 64, b"\x3a\xff\xff\xff\x7f", b"<html>", b"PK\3\4zip"],
)
def test_what_is_no_graph_is_refused(tmp_path: Path, content: bytes) -> None:
    folder = write(tmp_path, plain(external()))
    (folder / "model.onnx").write_bytes(content)
    manifest = yaml.safe_load((folder / "manifest.yaml").read_text())
    manifest["graphs"][0]["sha256"] = hashlib.sha256(content).hexdigest()
    (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest))
    with pytest.raises(BadModel, match="onnxruntime cannot load it"):
        load(folder, Settings())


def test_an_ort_file_is_no_graph(tmp_path: Path) -> None:
    """onnxruntime's own format could name files that nobody has seen."""
    folder = write(tmp_path, plain(external()))
    content = b"\x08\x09\0\0ORTM" + b"\0" * 64
    (folder / "model.onnx").write_bytes(content)
    manifest = yaml.safe_load((folder / "manifest.yaml").read_text())
    manifest["graphs"][0]["sha256"] = hashlib.sha256(content).hexdigest()
    (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest))
    with pytest.raises(BadModel, match="onnxruntime cannot load it"):
        load(folder, Settings())


FILES = ["manifest.yaml", "model.onnx", "labels.txt", "example.png", "example.json", "card.md"]
ODD: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "folder": lambda path: path.mkdir(),
    "absent": lambda _: None,
    "dangling link": lambda path: path.symlink_to("nowhere"),
    "device": lambda path: path.symlink_to("/dev/zero"),
    "loop": lambda path: path.symlink_to(path.name),
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("name", [*FILES, "tokenizer.json"])
def test_only_regular_files_are_read(tmp_path: Path, name: str, odd: str) -> None:
    folder = (write_words if name == "tokenizer.json" else write_colours)(tmp_path)
    (folder / name).unlink()
    ODD[odd](folder / name)
    with pytest.raises(BadModel, match=name.replace(".", r"\.")):
        load(folder, Settings())


@pytest.mark.parametrize("name", ["manifest.yaml", "labels.txt", "example.png", "example.json"])
def test_a_file_without_end_is_not_read(tmp_path: Path, name: str) -> None:
    folder = write_colours(tmp_path)
    os.truncate(folder / name, 2**40)
    with pytest.raises(BadModel, match=r"1,099,511,627,776 bytes; the limit is [\d,]+"):
        load(folder, Settings())


@pytest.mark.parametrize("value", ["0" * 64, "TODO", 0, None, "", "ABCDEF" + "0" * 58])
def test_the_hash_that_belongs_there_is_shown(tmp_path: Path, value: object) -> None:
    folder = write_colours(tmp_path, change=lambda m: m["graphs"][0].update(sha256=value))
    right = hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
    with pytest.raises(BadModel, match=right):
        load(folder, Settings())


def test_a_folder_without_a_manifest_says_what_writes_one(tmp_path: Path) -> None:
    folder = write_colours(tmp_path)
    (folder / "manifest.yaml").unlink()
    with pytest.raises(BadModel, match=r"python -m training package .*--name NAME"):
        read_manifest(folder)


@pytest.mark.anyio
async def test_a_bare_graph_says_what_writes_a_model_folder(tmp_path: Path) -> None:
    for place in ("leaves.onnx", "leaves/model.onnx", "other/1/model.onnx"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_bytes(b"graph")
    repository = Repository(Settings(models=tmp_path))
    await repository.open()
    reasons = {entry.name: str(entry.reason) for entry in repository.entries()}
    await repository.close()
    assert set(reasons) == {"leaves.onnx", "leaves", "other"}
    assert all("python -m training package" in reason for reason in reasons.values()), reasons


@pytest.mark.parametrize("task", ["detect", "segment", "generate"])
def test_a_task_that_does_not_exist_is_told(tmp_path: Path, task: str) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["tasks"][task] = {"output": "logits"}

    with pytest.raises(BadModel, match=rf"tasks\.{task}.*there are classify, embed"):
        load(write_colours(tmp_path, change=change), Settings())


ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"]
BOMS = {"utf-16-le": b"\xff\xfe", "utf-16-be": b"\xfe\xff"}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("last", ["", "END", "ENDEND  END"])
def test_labels_are_read_as_editors_save_them(encoding: str, end: str, last: str) -> None:
    text = "grün\nred and\u2028blue\n字".replace("\n", end) + last.replace("END", end)
    content = BOMS.get(encoding, b"") + text.encode(encoding)
    assert read_labels(content) == ("grün", "red and\u2028blue", "字")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32", "latin-1"])
def test_labels_in_other_encodings_are_refused(encoding: str) -> None:
    with pytest.raises(ValueError, match=r"NUL|decode"):
        read_labels("grün\nred\n".encode(encoding))
