"""Package: somebody's ONNX file becomes a model folder; its graph says most of the manifest.

python -m training package leaves.onnx --modality image --name leaves --imagenet \\
    --labels leaves.txt --example oak.jpg
"""

import argparse
import json
import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import onnx
import yaml
from onnx.external_data_helper import uses_external_data
from pydantic import ValidationError
from tokenizers import Tokenizer

from service.errors import SensoriumError
from service.manifest import AudioPreprocessing, Manifest, TokenInput, sha256
from service.preprocessing import TensorSpec
from service.session import Session
from service.settings import Provider
from training.errors import TrainingError
from training.folder import Content, choose_version, write_folder

GRAPH, LABELS, TOKENIZER = "model.onnx", "labels.txt", "tokenizer.json"
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
PAD_TOKENS = ("[PAD]", "<pad>")  # BERT's and RoBERTa's
TOLERANCE = 1e-3  # of a probability, between this machine's onnxruntime and another's
MAX_BATCH = 16
# What is left to do where the graph ends with such an operator; a second softmax would flatten.
ACTIVATIONS = {"Softmax": "none", "LogSoftmax": "log_softmax", "Sigmoid": "none"}
UNSTATED = "not stated"
TEXT_INPUTS: tuple[str, ...] = get_args(TokenInput)
MEL_FLAGS = ("window", "hop", "bands", "low_hz", "high_hz", "floor", "log_mean", "log_std")
# What belongs to one modality: a flag of another one is refused, not passed over.
FLAGS = {
    "image": ("size", "layout", "mean", "std", "imagenet", "crop", "fit", "resample"),
    "text": ("tokenizer", "max_length", "pad_token"),
    "audio": ("sample_rate", "seconds", "keep", *MEL_FLAGS),
}


class Unclear(TrainingError):
    """The graph and the flags do not say enough, or contradict each other."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a graph says of itself: names, types and shapes (None: any size)."""

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    last: Mapping[str, str] = field(default_factory=dict)  # output -> operator that makes it

    def one_input(self, rank: tuple[int, ...], takes: str) -> tuple[str, TensorSpec]:
        """The only input.

        Raises:
            Unclear: there are several, or it is not of such a rank.
        """
        [(name, spec), *more] = self.inputs.items()
        if more or len(spec.shape) not in rank:
            raise Unclear(f"the graph takes {list_tensors(self.inputs)}; {takes}")
        return name, spec


Ask = Callable[[str], None]  # takes a sentence that names the flag; all are shown at once


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `python -m training package`; what is left out is read from the graph."""
    add = parser.add_argument
    add("file", type=Path, metavar="FILE.onnx")
    add("--modality", choices=list(FLAGS), required=True)
    add("--name", required=True, help="of the model")
    add("--version", type=int, help="default: the next free number")
    add("--models", type=Path, default=Path("models"), help="where to write")
    add("--description", help="one sentence")
    add("--example", type=Path, help="one input file; its answer is computed and kept")
    add("--labels", type=Path, help="a label a line, or a config.json with id2label")
    add("--output", help="the output that the labels belong to, where several fit")
    add(
        "--activation",
        choices=("softmax", "log_softmax", "sigmoid", "none"),
        help="default: softmax, or what the graph's last node leaves to do",
    )
    add("--embed", metavar="OUTPUT", help="the output that is the vector")
    add("--precision", choices=("fp32", "fp16", "int8"), default="fp32")
    add("--tolerance", type=float, default=TOLERANCE, help="of the example's answer, absolute")
    add("--max-batch", type=int, help=f"default: {MAX_BATCH}, or 1 if the graph takes only one")
    add("--source", help="where the weights come from")
    add("--licence", default=UNSTATED)
    add("--data", default=UNSTATED, help="what they were trained on")

    image = parser.add_argument_group("pictures").add_argument
    image("--size", type=int, nargs="+", metavar="N", help="height and width, or one for both")
    image("--layout", choices=("NHWC", "NCHW"))
    image("--mean", type=float, nargs=3, metavar="M", help="(p / 255 - mean) / std")
    image("--std", type=float, nargs=3, metavar="S")
    image("--imagenet", action="store_const", const=True, help="ImageNet's mean and std")
    image("--crop", type=float, help="share of the centre that is kept: timm's crop_pct")
    image("--fit", choices=("crop", "stretch"))
    image("--resample", choices=("nearest", "box", "bilinear", "bicubic", "lanczos"))

    text = parser.add_argument_group("texts").add_argument
    text("--tokenizer", type=Path, help="tokenizer.json, as Hugging Face's tokenizers write it")
    text("--max-length", type=int, help="tokens, special ones included")
    text("--pad-token", help=f"default: the tokenizer's own, else one of {', '.join(PAD_TOKENS)}")

    audio = parser.add_argument_group("recordings").add_argument
    audio("--sample-rate", type=int, help="Hz")
    audio("--seconds", type=float, help="longer is cut, shorter is padded")
    audio("--keep", choices=("start", "centre"))
    audio("--window", type=int, help="samples of one frame")
    audio("--hop", type=int, help="samples from one frame to the next")
    audio("--bands", type=int, help="of the mel scale")
    audio("--low-hz", type=float)
    audio("--high-hz", type=float, help="default: half the sample rate")
    audio("--floor", type=float, help="added to the power before the logarithm")
    audio("--log-mean", type=float, help="(ln(power + floor) - mean) / std")
    audio("--log-std", type=float)


def run(args: argparse.Namespace) -> None:
    """Inspect, propose, write, prove.

    Raises:
        Unclear: with a sentence for every flag that is missing.
        FolderExists: the version is there already.
        BadModel: the service would refuse the folder; nothing is written.
    """
    version = choose_version(args.models / args.name, args.version)
    with tempfile.TemporaryDirectory() as scratch:
        graph = _in_one_file(args.file, Path(scratch))
        found = inspect(graph)
        print(f"{args.file.name} takes {list_tensors(found.inputs)}")
        print(f"{args.file.name} gives {list_tensors(found.outputs)}")
        manifest, labels = propose(args, found, graph, version)
        print(f"\n{_show(manifest)}")
        if assumed := list_assumed(args, manifest):
            print(f"assumed, for the graph cannot say it: {assumed}")
        folder = _write(args, manifest, labels, graph)
    print(f"{folder} is written, and loads as the service loads it")
    _print_answer(folder / manifest.example.expected, labels)


def inspect(graph: Path) -> Found:
    """What the graph takes and gives, as onnxruntime sees it.

    Raises:
        BadModel: onnxruntime cannot read it.
    """
    session = Session(graph, Provider.CPU, threads=1)
    nodes = onnx.load(graph, load_external_data=False).graph.node
    makers = {output: node.op_type for node in nodes for output in node.output}
    return Found(session.inputs, session.outputs, makers)


def propose(
    args: argparse.Namespace, found: Found, graph: Path, version: int
) -> tuple[Manifest, tuple[str, ...]]:
    """The manifest of that graph, and its labels.

    Raises:
        Unclear: with a sentence for every flag that is missing.
    """
    missing: list[str] = []
    _refuse_foreign_flags(args)
    for flag in ("example", "labels", "tokenizer"):
        path = getattr(args, flag)
        if path and not path.is_file():
            missing.append(f"--{flag}: there is no file {path}")
    if not args.example:
        missing.append(f"say --example FILE: one {args.modality} whose answer is kept as a proof")
    preprocessing, tasks, labels = _propose_all(args, found, missing.append)
    if missing:
        raise Unclear(_list(missing))
    content = {
        "format": 1,
        "name": args.name,
        "version": version,
        "description": args.description or f"Packaged from {args.file.name}.",
        "preprocessing": preprocessing,
        "graphs": [{"file": GRAPH, "precision": args.precision, "sha256": sha256(graph)}],
        "tasks": tasks,
        "batching": {"max_batch": _max_batch(args, found)},
        "example": {
            "file": f"example{args.example.suffix.lower()}",
            "tolerance": {args.precision: args.tolerance},
        },
        "origin": {
            "source": args.source or args.file.name,
            "sha256": sha256(graph),  # so that heads can name it as their encoder
            "licence": args.licence,
            "data": args.data,
        },
    }
    try:
        return Manifest.model_validate(content), labels
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise Unclear(_list(lines)) from error


def list_assumed(args: argparse.Namespace, manifest: Manifest) -> str:
    """What was neither said nor found, with the flags that change it."""
    spec = manifest.preprocessing
    values = {
        flag: getattr(spec, flag)
        for flag in ("crop", "fit", "resample", "keep")
        if hasattr(spec, flag)
    }
    if isinstance(spec, AudioPreprocessing) and (mel := spec.log_mel):
        values |= {"low_hz": mel.low_hz, "high_hz": mel.high_hz, "floor": mel.floor}
        values |= {"log_mean": mel.mean, "log_std": mel.std}
    if manifest.tasks.classify and manifest.tasks.classify.activation == "softmax":
        values["activation"] = "softmax"  # any other was said, or stands in the graph
    values |= {"licence": manifest.origin.licence, "data": manifest.origin.data}
    unsaid = {f: v for f, v in values.items() if getattr(args, f) in (None, UNSTATED)}
    return ", ".join(f"{_flag(flag)} {value}" for flag, value in unsaid.items())


def list_tensors(tensors: Mapping[str, TensorSpec]) -> str:
    """`pixels float32[N, 3, 224, 224]`, one after the other."""
    return ", ".join(
        f"{name} {spec.dtype}[{', '.join('N' if s is None else str(s) for s in spec.shape)}]"
        for name, spec in tensors.items()
    )


def _propose_all(
    args: argparse.Namespace, found: Found, ask: Ask
) -> tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]:
    """The manifest's `preprocessing` and `tasks`, and the labels; what is missing is asked for."""
    describe = {"image": _propose_image, "text": _propose_text, "audio": _propose_audio}
    preprocessing = describe[args.modality](args, found, ask)
    labels = _read_labels(args.labels) if args.labels and args.labels.is_file() else ()
    return preprocessing, _propose_tasks(args, found, labels, ask), labels


def _propose_image(args: argparse.Namespace, found: Found, ask: Ask) -> dict[str, Any]:
    name, spec = found.one_input((4,), "the service gives one array of RGB pixels, of rank 4")
    layouts = [layout for layout in ("NCHW", "NHWC") if spec.shape[layout.index("C")] == 3]
    layout = args.layout or (layouts[0] if len(layouts) == 1 else None)
    if 3 not in spec.shape[1:] and None not in spec.shape[1:]:
        raise Unclear(f"the graph takes {list_tensors(found.inputs)}; the service gives 3 channels")
    if not layout:
        ask("say --layout NCHW or NHWC: the graph's shape leaves it open")
    sides = [spec.shape[layout.index(side)] for side in "HW"] if layout else []
    size = args.size * 2 if args.size and len(args.size) == 1 else args.size or sides
    if layout and (len(size) != 2 or None in size):
        ask("say --size HEIGHT WIDTH: the graph takes pictures of any size")
    return {
        "modality": "image",
        "input": name,
        "size": size,
        "layout": layout,
        "normalise": _propose_normalise(args, spec, ask),
        **_given(args, "crop", "fit", "resample"),
    }


def _propose_normalise(
    args: argparse.Namespace, spec: TensorSpec, ask: Ask
) -> dict[str, Any] | None:
    if spec.dtype == "uint8":
        if args.mean or args.std or args.imagenet:
            ask("leave --mean, --std and --imagenet out: the graph takes uint8, 0 to 255")
        return None
    if args.imagenet:
        if args.mean or args.std:
            ask("say --imagenet, or --mean and --std, not both")
        return {**IMAGENET, "dtype": spec.dtype}
    if not (args.mean and args.std):
        ask(
            f"say --mean R G B and --std R G B, or --imagenet: the graph takes {spec.dtype},"
            " (p / 255 - mean) / std of each pixel (0 and 1 for 0 to 1)"
        )
    return {"mean": args.mean, "std": args.std, "dtype": spec.dtype}


def _propose_text(args: argparse.Namespace, found: Found, ask: Ask) -> dict[str, Any]:
    for name, spec in found.inputs.items():
        if name not in TEXT_INPUTS or spec.dtype != "int64" or len(spec.shape) != 2:
            raise Unclear(
                f"the graph takes {list_tensors(found.inputs)}; the service gives int64[N, length]"
                f" by the names of {', '.join(TEXT_INPUTS)}: export it with these"
            )
        if spec.shape[1] is not None:
            raise Unclear(
                f"the graph takes {list_tensors(found.inputs)}; texts differ in length: export it"
                " with a dynamic second axis"
            )
    if not args.tokenizer:
        ask("say --tokenizer FILE: the tokenizer.json that the model was trained with")
    tokenizer = _read_tokenizer(args.tokenizer)
    length = args.max_length or (tokenizer.get("truncation") or {}).get("max_length")
    if not length:
        ask("say --max-length TOKENS: the most that the model was made for (BERT's is 512)")
    return {
        "modality": "text",
        "tokenizer": TOKENIZER,
        "max_length": length,
        "pad_token": args.pad_token or _pad_token(args.tokenizer, tokenizer, ask),
        "inputs": [name for name in TEXT_INPUTS if name in found.inputs],
    }


def _read_tokenizer(path: Path | None) -> dict[str, Any]:
    """The content of a tokenizer.json; nothing if there is none.

    Raises:
        Unclear: it is not a tokenizer.
    """
    if path is None or not path.is_file():
        return {}
    try:
        Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises a bare Exception
        raise Unclear(f"--tokenizer: {path} is not a tokenizer.json: {error}") from error
    content: dict[str, Any] = json.loads(path.read_bytes())
    return content


def _pad_token(path: Path | None, tokenizer: Mapping[str, Any], ask: Ask) -> str | None:
    if not tokenizer:
        return None
    if padding := tokenizer.get("padding"):
        return str(padding["pad_token"])
    known = Tokenizer.from_file(str(path))
    for token in PAD_TOKENS:
        if known.token_to_id(token) is not None:
            return token
    ask("say --pad-token TOKEN: the tokenizer names none")
    return None


def _propose_audio(args: argparse.Namespace, found: Found, ask: Ask) -> dict[str, Any]:
    name, spec = found.one_input((2, 3), "the service gives [N, samples] or [N, bands, frames]")
    if spec.dtype != "float32":
        raise Unclear(f"the graph takes {list_tensors(found.inputs)}; the service gives float32")
    if not args.sample_rate:
        ask("say --sample-rate HZ: the one that the model was trained with")
    log_mel = _propose_log_mel(args, spec, ask) if len(spec.shape) == 3 else None
    hop = args.hop if log_mel else 1
    if log_mel is None and (unused := _given(args, *MEL_FLAGS)):
        ask(f"leave {_flag(next(iter(unused)))} out: the graph takes the waveform")
    seconds = args.seconds
    last = spec.shape[-1]
    if seconds is None and last is not None and hop and args.sample_rate:
        samples = (last - 1) * hop if log_mel else last
        seconds = samples / args.sample_rate
    if seconds is None and last is None:
        ask("say --seconds S: the graph takes recordings of any length")
    return {
        "modality": "audio",
        "input": name,
        "sample_rate": args.sample_rate,
        "seconds": seconds,
        "log_mel": log_mel,
        **_given(args, "keep"),
    }


def _propose_log_mel(args: argparse.Namespace, spec: TensorSpec, ask: Ask) -> dict[str, Any]:
    bands = args.bands or spec.shape[1]
    absent = [flag for flag in ("window", "hop") if getattr(args, flag) is None]
    if bands is None:
        absent.append("bands")
    if absent:
        flags = ", ".join(f"{_flag(flag)} N" for flag in absent)
        ask(f"say {flags}: the graph takes a spectrogram, [N, bands, frames]")
    given = _given(args, "window", "hop", "low_hz", "high_hz", "floor")
    moments = {"mean": args.log_mean, "std": args.log_std}
    return {
        "bands": bands,
        "high_hz": args.sample_rate / 2 if args.sample_rate else None,
        **given,
        **{key: value for key, value in moments.items() if value is not None},
    }


def _propose_tasks(
    args: argparse.Namespace, found: Found, labels: tuple[str, ...], ask: Ask
) -> dict[str, Any]:
    tasks: dict[str, Any] = {}
    if not args.labels and not args.embed:
        ask(
            "say --labels FILE (a label a line) if it classifies, --embed OUTPUT if it gives"
            f" vectors: the graph gives {list_tensors(found.outputs)}"
        )
    if labels:
        output = _classify_output(args, found, labels, ask)
        done = ACTIVATIONS.get(found.last.get(output or "", ""), "softmax")
        tasks["classify"] = {
            "output": output,
            "activation": args.activation or done,
            "labels": LABELS,
        }
    if args.embed:
        tasks["embed"] = {"output": args.embed, "width": _embed_width(args, found, ask)}
    return tasks


def _classify_output(
    args: argparse.Namespace, found: Found, labels: tuple[str, ...], ask: Ask
) -> str | None:
    fitting = [
        name
        for name, spec in found.outputs.items()
        if len(spec.shape) == 2 and spec.shape[1] in (None, len(labels))
    ]
    if args.output in fitting:
        return str(args.output)
    if args.output or not fitting:
        ask(
            f"--labels: {args.labels} has {len(labels)} labels; the graph gives"
            f" {list_tensors(found.outputs)}"
        )
        return None
    if len(fitting) > 1:
        ask(f"say --output, one of {', '.join(fitting)}: each has room for {len(labels)} labels")
    return fitting[0]


def _embed_width(args: argparse.Namespace, found: Found, ask: Ask) -> int | None:
    spec = found.outputs.get(args.embed)
    if spec and len(spec.shape) == 2 and spec.shape[1]:
        return spec.shape[1]
    ask(
        f"--embed {args.embed}: the service takes float[N, width], the width known; the graph"
        f" gives {list_tensors(found.outputs)}: export it with its pooling"
    )
    return None


def _max_batch(args: argparse.Namespace, found: Found) -> int:
    """As asked for, but 1 for a graph that was exported for one item only."""
    fixed = {spec.shape[0] for spec in found.inputs.values()} - {None}
    if fixed - {1}:
        raise Unclear(
            f"the graph takes {list_tensors(found.inputs)}, batches of one size only: export it"
            " with a dynamic batch"
        )
    return 1 if fixed else args.max_batch or MAX_BATCH


def _read_labels(path: Path) -> tuple[str, ...]:
    """Labels in their order, of a text with one a line or of Hugging Face's config.json.

    Raises:
        Unclear: it is neither.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix.lower() != ".json":
            return tuple(text.splitlines())
        names = json.loads(text)["id2label"]
        return tuple(names[str(number)] for number in range(len(names)))
    except (ValueError, KeyError, TypeError) as error:
        raise Unclear(
            f"--labels: {path} has neither a label a line nor an id2label: {error}"
        ) from error


def _refuse_foreign_flags(args: argparse.Namespace) -> None:
    for modality, flags in FLAGS.items():
        if modality != args.modality and (given := _given(args, *flags)):
            raise Unclear(f"{_flag(next(iter(given)))} says nothing of {args.modality}")


def _given(args: argparse.Namespace, *flags: str) -> dict[str, Any]:
    """Those flags that were given."""
    return {flag: getattr(args, flag) for flag in flags if getattr(args, flag) is not None}


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _list(sentences: list[str]) -> str:
    return sentences[0] if len(sentences) == 1 else "".join(f"\n  - {line}" for line in sentences)


def _in_one_file(path: Path, scratch: Path) -> Path:
    """The graph itself, or a copy that holds its weights: PyTorch puts them beside it by default.

    Raises:
        Unclear: it is not an ONNX file, or its weights are not beside it.
    """
    if not path.is_file():
        raise Unclear(f"there is no file {path}")
    try:
        model = onnx.load(path, load_external_data=False)
        if not any(uses_external_data(tensor) for tensor in model.graph.initializer):
            return path
        whole = scratch / GRAPH
        onnx.save(onnx.load(path), whole)
    except Exception as error:  # protobuf's and onnx's own, which share no base
        raise Unclear(f"{path} is not a whole ONNX file: {error}") from error
    return whole


def _write(
    args: argparse.Namespace, manifest: Manifest, labels: tuple[str, ...], graph: Path
) -> Path:
    files: dict[str, Content] = {
        GRAPH: graph,
        manifest.example.file: args.example,
        manifest.card: _write_card(args, manifest, labels),
    }
    if labels:
        files[LABELS] = "".join(f"{label}\n" for label in labels)
    if args.tokenizer:
        files[TOKENIZER] = args.tokenizer
    try:
        return write_folder(args.models, manifest, files)
    except (TrainingError, SensoriumError, OSError):
        raise
    except Exception as error:  # onnxruntime's own exceptions share no public base
        raise Unclear(f"the graph cannot answer {args.example}: {error}") from error


def _write_card(args: argparse.Namespace, manifest: Manifest, labels: tuple[str, ...]) -> str:
    answers = f"{len(labels)} labels" if labels else ""
    if manifest.tasks.embed:
        vector = f"a vector of {manifest.tasks.embed.width} numbers"
        answers = f"{answers}, {vector}" if answers else vector
    lines = [
        f"# {manifest.name} {manifest.version}",
        "",
        manifest.description,
        "",
        f"- **Takes**: {args.modality}",
        f"- **Answers**: {answers}",
        f"- **Source**: {manifest.origin.source}",
        f"- **Data**: {manifest.origin.data}",
        f"- **Licence**: {manifest.origin.licence}",
        "",
        "Packaged by `python -m training package` from a graph that was trained elsewhere. Its",
        "preprocessing stands in `manifest.yaml`; no figures were measured here:",
        f"`python -m training evaluate {manifest.name} --data DIR` does it.",
    ]
    return "\n".join(lines) + "\n"


def _show(manifest: Manifest) -> str:
    content = manifest.model_dump(mode="json", exclude_none=True)
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)


def _print_answer(expected: Path, labels: tuple[str, ...]) -> None:
    """What it says of the example, for the eye: a wrong mean or layout shows here."""
    answer = json.loads(expected.read_text())
    if "classify" in answer:
        best = sorted(zip(answer["classify"], labels, strict=True), reverse=True)[:3]
        print("the example is " + ", ".join(f"{label} {score:.3f}" for score, label in best))
    if "embed" in answer:
        vector = answer["embed"]
        length = math.hypot(*vector)
        print(f"the example's vector has {len(vector)} numbers and length {length:.3f}")
