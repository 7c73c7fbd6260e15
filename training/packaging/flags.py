"""The flags of `python -m training package`; what is left out is read from the graph."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from training.packaging.graph import Unclear

PAD_TOKENS = ("[PAD]", "<pad>")  # BERT's and RoBERTa's
TOLERANCE = 1e-3  # of a probability, between this machine's onnxruntime and another's
MAX_BATCH = 16
UNSTATED = "not stated"
MEL_FLAGS = ("window", "hop", "bands", "low_hz", "high_hz", "floor", "log_mean", "log_std")
# What belongs to one modality: a flag of another one is refused, not passed over.
FLAGS = {
    "image": ("size", "layout", "mean", "std", "imagenet", "crop", "fit", "resample"),
    "text": ("tokenizer", "max_length", "pad_token"),
    "audio": ("sample_rate", "seconds", "keep", *MEL_FLAGS),
}
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

    image = parser.add_argument_group("images").add_argument
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

    audio = parser.add_argument_group("audio").add_argument
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


def refuse_foreign(args: argparse.Namespace) -> None:
    """Raises:
    Unclear: a flag was given that belongs to another modality.
    """
    for modality, flags in FLAGS.items():
        if modality != args.modality and (foreign := given(args, *flags)):
            raise Unclear(f"{spell(next(iter(foreign)))} says nothing of {args.modality}")


def given(args: argparse.Namespace, *flags: str) -> dict[str, Any]:
    """Those flags that were given."""
    return {flag: getattr(args, flag) for flag in flags if getattr(args, flag) is not None}


def spell(flag: str) -> str:
    """As it is typed."""
    return f"--{flag.replace('_', '-')}"
