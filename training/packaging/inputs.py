"""From a graph's inputs to the preprocessing that it wants."""

import argparse
from pathlib import Path
from typing import Any, get_args

from tokenizers import Tokenizer

from service.model.preprocessing.text import TokenInput
from service.runtime.tensors import TensorSpec
from training.packaging.flags import MEL_FLAGS, PAD_TOKENS, Ask, given, spell
from training.packaging.graph import Found, Unclear

TOKENIZER = "tokenizer.json"
TEXT_INPUTS: tuple[str, ...] = get_args(TokenInput)
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def propose_preprocessing(args: argparse.Namespace, found: Found, ask: Ask) -> dict[str, Any]:
    """The manifest's `preprocessing`; what is missing is asked for.

    Raises:
        Unclear: the service can give no such inputs.
    """
    propose = {"image": _propose_image, "text": _propose_text, "audio": _propose_audio}
    return {"modality": args.modality, **propose[args.modality](args, found, ask)}


def _propose_image(args: argparse.Namespace, found: Found, ask: Ask) -> dict[str, Any]:
    name, spec = found.one_input((4,), "one array of RGB pixels, of rank 4")
    if 3 not in spec.shape[1:] and None not in spec.shape[1:]:
        raise Unclear(f"the graph takes {found.takes}; the service gives 3 channels")
    layouts = [layout for layout in ("NCHW", "NHWC") if spec.shape[layout.index("C")] == 3]
    layout = args.layout or (layouts[0] if len(layouts) == 1 else None)
    if not layout:
        ask("say --layout NCHW or NHWC: the graph's shape leaves it open")
    sides = [spec.shape[layout.index(side)] for side in "HW"] if layout else []
    size = args.size * 2 if args.size and len(args.size) == 1 else args.size or sides
    if layout and (len(size) != 2 or None in size):
        ask("say --size HEIGHT WIDTH: the graph takes images of any size")
    return {
        "input": name,
        "size": size,
        "layout": layout,
        "normalise": _propose_normalise(args, spec, ask),
        **given(args, "crop", "fit", "resample"),
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
                f"the graph takes {found.takes}; the service gives int64[N, length]"
                f" by the names of {', '.join(TEXT_INPUTS)}: export it with these"
            )
        if spec.shape[1] is not None:
            raise Unclear(
                f"the graph takes {found.takes}; texts differ in length: export it"
                " with a dynamic second axis"
            )
    if not args.tokenizer:
        ask("say --tokenizer FILE: the tokenizer.json that the model was trained with")
    tokenizer = _read_tokenizer(args.tokenizer)
    truncation = tokenizer.truncation if tokenizer else None
    length = args.max_length or (truncation and truncation["max_length"])
    if not length:
        ask("say --max-length TOKENS: the most that the model was made for (BERT's is 512)")
    proposed = {
        "tokenizer": TOKENIZER,
        "max_length": length,
        "inputs": [name for name in TEXT_INPUTS if name in found.inputs],
    }
    if "attention_mask" not in found.inputs:
        return proposed  # no text is padded
    return {**proposed, "pad_token": args.pad_token or (tokenizer and _pad_token(tokenizer, ask))}


def _read_tokenizer(path: Path | None) -> Tokenizer | None:
    """A tokenizer.json; None if there is none.

    Raises:
        Unclear: it is not a tokenizer.
    """
    if path is None or not path.is_file():
        return None
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises a bare Exception
        raise Unclear(f"--tokenizer: {path} is not a tokenizer.json: {error}") from error


def _pad_token(tokenizer: Tokenizer, ask: Ask) -> str | None:
    if tokenizer.padding:
        return str(tokenizer.padding["pad_token"])
    for token in PAD_TOKENS:
        if tokenizer.token_to_id(token) is not None:
            return token
    ask("say --pad-token TOKEN: the tokenizer names none")
    return None


def _propose_audio(args: argparse.Namespace, found: Found, ask: Ask) -> dict[str, Any]:
    name, spec = found.one_input((2, 3), "[N, samples] or [N, bands, frames]")
    if spec.dtype != "float32":
        raise Unclear(f"the graph takes {found.takes}; the service gives float32")
    if not args.sample_rate:
        ask("say --sample-rate HZ: the one that the model was trained with")
    return {
        "input": name,
        "sample_rate": args.sample_rate,
        "log_mel": _propose_log_mel(args, spec, ask),
        "seconds": _propose_seconds(args, spec, ask),
        **given(args, "keep"),
    }


def _propose_log_mel(args: argparse.Namespace, spec: TensorSpec, ask: Ask) -> dict[str, Any] | None:
    if len(spec.shape) == 2:
        if unused := given(args, *MEL_FLAGS):
            ask(f"leave {spell(next(iter(unused)))} out: the graph takes the waveform")
        return None
    proposed = {
        "high_hz": args.sample_rate / 2 if args.sample_rate else None,
        "bands": spec.shape[1],
        **given(args, "window", "hop", "bands", "low_hz", "high_hz", "floor"),
    }
    if absent := [flag for flag in ("window", "hop", "bands") if proposed.get(flag) is None]:
        flags = ", ".join(f"{spell(flag)} N" for flag in absent)
        ask(f"say {flags}: the graph takes a spectrogram, [N, bands, frames]")
    moments = given(args, "log_mean", "log_std")
    return proposed | {flag.removeprefix("log_"): value for flag, value in moments.items()}


def _propose_seconds(args: argparse.Namespace, spec: TensorSpec, ask: Ask) -> float | None:
    """As said; else so long that a recording fills the graph's last axis."""
    if args.seconds is not None:
        return float(args.seconds)
    length = spec.shape[-1]
    if length is None:
        ask("say --seconds S: the graph takes audio of any length")
        return None
    spectrogram = len(spec.shape) == 3
    if not args.sample_rate or (spectrogram and not args.hop):
        return None  # asked for already
    samples = (length - 1) * args.hop if spectrogram else length
    return float(samples / args.sample_rate)
