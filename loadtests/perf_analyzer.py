"""NVIDIA's perf_analyzer against a running service, a file form and a tensor form of a model.

    python -m loadtests.perf_analyzer                               efficientnet-lite0, 1 to 16
    python -m loadtests.perf_analyzer all-minilm-l6-v2 --file some.txt --concurrency 1:4

It comes from its package, pinned by hash, and is kept in `.cache/perf_analyzer`. It wants a newer
libc than Debian 12 has: where this one is older, that of the next Debian is unpacked beside it, and
perf_analyzer is started by its loader. Nothing is installed.
"""

import argparse
import base64
import json
import os
import platform
import re
import shlex
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.request import urlopen

import numpy as np

VERSION = "2.60.0"
SHA256 = {
    "x86_64": "23ef56b107ae9233e5cf09fbdf508dd9b936a52f1bae2f63f53c8117087b3f25",
    "aarch64": "c2ece0adb7760ea1abc258222d80bf8e367fa9639401406b96da2c9b55131d29",
}
LIBC = (2, 38)  # that it was built for
RELEASE = "trixie"  # of Debian, whose libc will do
LIBRARIES = ("libc6", "libstdc++6", "libgcc-s1")
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
CACHE = Path(".cache/perf_analyzer")
FILE = Path("models/efficientnet-lite0/1/example.jpg")
FREE_SIZE = 16  # of an axis that the model leaves open: tokens


class Missing(Exception):
    """perf_analyzer cannot be had here, or gave no report; the message says why."""


def find(cache: Path = CACHE) -> list[str]:
    """The command that starts perf_analyzer; it is fetched where it is not there.

    Raises:
        Missing: it cannot be fetched, or does not start.
    """
    program = cache / VERSION / "perf_analyzer/bin/perf_analyzer"
    if not program.is_file():
        _fetch_program(cache / VERSION)
    program.chmod(0o755)
    command = [str(program)]
    name, version = platform.libc_ver()
    if name == "glibc" and tuple(map(int, version.split("."))) < LIBC:
        command = [*_find_loader(cache / RELEASE), str(program)]
    _run([*command, "--version"])
    return command


def measure(
    command: Sequence[str], url: str, model: str, file: bytes, concurrency: str, apart: int = 25
) -> str:
    """Its report about a model: answers a second, and queue and compute as the service counts them.

    Args:
        url: host and port.
        model: its file form, or the tensor form, which is asked with tensors of ones.
        file: what a file form is asked with.
        concurrency: `least:most` or `least:most:step`.
        apart: how many per cent three windows in a row may differ; their mean is the result, and
            where none agree in ten windows, there is none for this concurrency.

    Raises:
        Missing: it ended with an error.
    """
    with urlopen(f"http://{url}/v2/models/{model}", timeout=10) as response:
        inputs = json.load(response)["inputs"]
    with TemporaryDirectory(prefix="sensorium-perf-") as folder:
        data = Path(folder) / "data.json"
        item = {each["name"]: _make_input(each, file) for each in inputs}
        data.write_text(json.dumps({"data": [item]}))
        asked = ("-m", model, "-u", url, "-i", "http", "--input-data", str(data))
        window = ("--measurement-mode", "count_windows", "--stability-percentage", str(apart))
        return _run([*command, *asked, "--concurrency-range", concurrency, *window])


def _make_input(spec: Mapping[str, Any], file: bytes) -> dict[str, Any]:
    """One item's, as perf_analyzer reads it."""
    if spec["datatype"] == "BYTES":
        shape, content = [1], struct.pack("<I", len(file)) + file  # as its elements travel
    else:
        shape = [FREE_SIZE if size == -1 else size for size in spec["shape"][1:]]
        content = np.ones(shape, spec["datatype"].lower().replace("fp", "float")).tobytes()
    return {"content": {"b64": base64.b64encode(content).decode()}, "shape": shape}


def _fetch_program(into: Path) -> None:
    """The wheel, by pip, which holds it against its hash; then unpacked."""
    machine = platform.machine()
    if machine not in SHA256:
        raise Missing(f"perf_analyzer has no package for {machine}")
    into.mkdir(parents=True, exist_ok=True)
    pinned = into / "requirements.txt"
    pinned.write_text(f"perf-analyzer=={VERSION} --hash=sha256:{SHA256[machine]}\n")
    kind = ("--platform", f"manylinux_{LIBC[0]}_{LIBC[1]}_{machine}", "--only-binary", ":all:")
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes")
    _run([*pip, *kind, "--target", str(into), "--requirement", str(pinned)])


def _find_loader(folder: Path) -> list[str]:
    """The newer libc's own loader, told to look for libraries beside itself."""
    found = sorted(folder.glob("root/usr/lib/*/ld-linux-*.so.*"))
    if not found:
        _fetch_libraries(folder)
        found = sorted(folder.glob("root/usr/lib/*/ld-linux-*.so.*"))
    return [str(found[0]), "--library-path", str(found[0].parent)]


def _fetch_libraries(folder: Path) -> None:
    """From where this Debian has its packages, signed as they are, by an apt with its own state."""
    try:
        known = _run(["apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME)"])
    except FileNotFoundError:
        raise Missing("this libc is too old for perf_analyzer, and there is no apt-get") from None
    mirrors = re.findall(r"^(\S+) [a-z]+$", known, re.MULTILINE)
    if not mirrors:
        raise Missing("apt knows no mirror")
    for part in ("lists/partial", "archives/partial", "packages", "root"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    sources = folder / "sources.list"
    sources.write_text(f"deb [signed-by={KEYRING}] {mirrors[0]} {RELEASE} main\n")
    apt = [
        *("apt-get", "-q", "-o", "APT::Sandbox::User="),
        *("-o", f"Dir::Etc::sourcelist={sources.resolve()}", "-o", "Dir::Etc::sourceparts=-"),
        *("-o", f"Dir::State::lists={(folder / 'lists').resolve()}"),
        *("-o", f"Dir::Cache={folder.resolve()}", "-o", "Dir::State::status=/dev/null"),
    ]
    _run([*apt, "update"])
    _run([*apt, "download", *LIBRARIES], folder / "packages")
    for package in sorted((folder / "packages").glob("*.deb")):
        _run(["dpkg-deb", "--extract", str(package), str(folder / "root")])


def _run(command: Sequence[str], folder: Path | None = None) -> str:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = (done.stdout + done.stderr).strip()
        raise Missing(f"{shlex.join(command)} ended with {done.returncode}:\n{said}")
    return done.stdout


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m loadtests.perf_analyzer",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", nargs="?", default="efficientnet-lite0", metavar="MODEL")
    parser.add_argument("--file", type=Path, default=FILE, help="(default: %(default)s)")
    parser.add_argument(
        "--url",
        type=lambda given: given.removeprefix("http://").rstrip("/"),
        default="127.0.0.1:3000",
        help="host and port (default: %(default)s)",
    )
    parser.add_argument("--concurrency", default="1:16", help="(default: %(default)s)")
    args = parser.parse_args(arguments)
    try:
        command = find()
        for form in (args.model, f"{args.model}:tensors"):
            report = measure(command, args.url, form, args.file.read_bytes(), args.concurrency)
            print(report, flush=True)
    except (Missing, OSError) as reason:
        print(reason, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
