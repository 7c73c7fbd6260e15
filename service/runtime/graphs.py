"""Graphs: reads an ONNX file and its side files once, and checks their hashes.

onnxruntime gets the hashed bytes and opens no file itself. So a file that changes later does not
affect a model that serves.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from service.errors import BadModel
from service.regular import read_regular, sha256
from service.runtime.tables import find_side_files

GRAPH_BYTES = 2**31  # protobuf's limit
SIDE_BYTES = 2**40


@dataclass(frozen=True, slots=True)
class GraphFile:
    """An ONNX file and its side files in memory."""

    path: Path
    content: bytes = field(repr=False)
    side_files: dict[str, bytes] = field(repr=False)  # by name


def read_graph(
    path: Path, digest: str | None = None, side_hashes: Mapping[str, str] | None = None
) -> GraphFile:
    """Read a graph and its side files.

    Args:
        digest: the declared SHA-256 of the graph; None: unchecked.
        side_hashes: the declared SHA-256 of each side file; None: no side files are allowed.

    Raises:
        BadModel: a file does not match its hash, or the graph reads an undeclared file.
    """
    content = read_regular(path, GRAPH_BYTES)
    if digest:
        _compare(path, hashlib.sha256(content).hexdigest(), digest)
    try:
        wanted = find_side_files(content)
    except ValueError as error:
        raise BadModel(f"{path}: onnxruntime cannot load it safely: {error}") from error
    hashes = side_hashes or {}
    if undeclared := sorted(wanted - set(hashes)):
        raise BadModel(
            f"{path}: graphs.side_files: it reads the file {undeclared[0]!a}, which the"
            " manifest does not declare; `python -m training package` writes a complete folder"
        )
    side_files: dict[str, bytes] = {}
    for name in sorted(wanted):
        side = path.parent / name
        side_files[name] = read_regular(side, SIDE_BYTES, sealed=True)
        _compare(side, hashlib.sha256(side_files[name]).hexdigest(), hashes[name])
    return GraphFile(path, content, side_files)


def check_graph(path: Path, digest: str, side_hashes: Mapping[str, str]) -> None:
    """Check the hashes of a graph that is not loaded because another one is preferred.

    Raises:
        BadModel: a file does not match its hash.
    """
    for file, declared in {path.name: digest, **side_hashes}.items():
        _compare(path.parent / file, sha256(path.parent / file), declared)


def _compare(path: Path, found: str, declared: str) -> None:
    if found != declared:
        raise BadModel(
            f"{path}: graphs.sha256: {path.name} is not the file that the manifest describes: its"
            f" SHA-256 is {found}, not {declared}"
        )
