"""Activation: what is left to do, by a graph's answers and by the nodes that it ends with."""

import argparse
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from service.runtime.tensors import Array, TensorSpec
from training.packaging.flags import Ask
from training.packaging.graph import Found

LEFT = {"Softmax": "none", "LogSoftmax": "log_softmax", "Sigmoid": "none"}
# Nodes that hand on what they were given, in another shape, type or place.
PASSING = {
    "Cast", "CastLike", "Clip", "DequantizeLinear", "Dropout", "Flatten", "Gather", "Identity",
    "QuantizeLinear", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze",
}  # fmt: skip
CLOSE = 0.01  # of a sum to 1, and of a value to 0 or 1: in fp16 and int8 they are not exact
BATCHES, ITEMS = 3, 4  # of random inputs
SCALES = (1.0, 10.0, 0.1)  # of random numbers, one for each batch
ANY_LENGTH, ANY_SIDE, ANY_SAMPLES = 8, 64, 16_000  # of an axis that may be of any


def propose_activation(args: argparse.Namespace, found: Found, output: str, ask: Ask) -> str:
    """What is left to do of the output, so that nothing is done twice."""
    rows = _answers(args, found, output)
    left = _left_by_values(rows)
    if args.activation:
        if left and args.activation != left:
            ask(
                f"leave --activation {args.activation} out: {output} already holds"
                f" {'log-' if left == 'log_softmax' else ''}probabilities, whose sum is 1"
            )
        return str(args.activation)
    left = left or _left_by_nodes(found, output)
    if not left and len(rows) and _within(rows):
        ask(
            f"say --activation none if {output} holds probabilities, or softmax if it holds scores:"
            " random inputs give values from 0 to 1 whose sum is not 1"
        )
    return left or "softmax"


def _left_by_values(rows: NDArray[np.float64]) -> str | None:
    """What the graph's answers to random inputs show, where they leave no doubt."""
    if len(rows) < ITEMS or rows.shape[1] < 2:
        return None
    if _within(rows) and np.allclose(rows.sum(axis=1), 1, atol=CLOSE):
        return "none"
    if rows.max() <= CLOSE and np.allclose(np.exp(rows).sum(axis=1), 1, atol=CLOSE):
        return "log_softmax"
    return None


def _within(rows: NDArray[np.float64]) -> bool:
    return bool(rows.min() >= -CLOSE and rows.max() <= 1 + CLOSE)


def _left_by_nodes(found: Found, output: str) -> str | None:
    """What the last node leaves to do, behind those that only hand on."""
    operator, given = _ending(found, output)
    if operator in ("Exp", "Log"):
        inner, _ = _ending(found, given)
        undone = {("Exp", "LogSoftmax"): "none", ("Log", "Softmax"): "log_softmax"}
        return undone.get((operator, inner))
    return LEFT.get(operator)


def _ending(found: Found, tensor: str) -> tuple[str, str]:
    """The operator that makes a tensor, and its first input."""
    while node := found.nodes.get(tensor):
        tensor = next(iter(node.input), "")
        if node.op_type not in PASSING:
            return node.op_type, tensor
    return "", ""


def _answers(args: argparse.Namespace, found: Found, output: str) -> NDArray[np.float64]:
    """float64[rows, classes] of random inputs; none where the graph cannot compute these."""
    rows: list[Array] = []
    for feeds in _random_feeds(args, found):
        try:
            [values] = found.session.run(feeds, [output])
        except Exception:  # onnxruntime's own exceptions share no public base
            continue
        if values.ndim == 2:
            rows += [row for row in values.astype(np.float64) if not np.isnan(row).any()]
    return np.array(rows) if rows else np.empty((0, 0))


def _random_feeds(args: argparse.Namespace, found: Found) -> Iterator[dict[str, Array]]:
    vocabulary = ANY_LENGTH
    if args.tokenizer and args.tokenizer.is_file():
        vocabulary = Tokenizer.from_file(str(args.tokenizer)).get_vocab_size()
    for seed in range(BATCHES):
        generator = np.random.default_rng(seed)
        yield {
            name: _random(generator, name, spec, SCALES[seed], _sizes(args, spec), vocabulary)
            for name, spec in found.inputs.items()
        }


def _sizes(args: argparse.Namespace, spec: TensorSpec) -> tuple[int, ...]:
    """A shape that the input can have."""
    free = {2: ANY_LENGTH if spec.dtype == "int64" else ANY_SAMPLES, 4: ANY_SIDE}
    sides = iter(args.size * 2 if args.size and len(args.size) == 1 else args.size or ())
    batch, *others = spec.shape
    any_size = free.get(len(spec.shape), ANY_SIDE)
    return batch or ITEMS, *(size or next(sides, any_size) for size in others)


def _random(
    generator: np.random.Generator,
    name: str,
    spec: TensorSpec,
    scale: float,
    shape: tuple[int, ...],
    vocabulary: int,
) -> Array:
    if spec.dtype == "uint8":
        return generator.integers(0, 256, shape, np.uint8)
    if spec.dtype == "int64":
        highest = {"attention_mask": 1, "token_type_ids": 0}.get(name, vocabulary - 1)
        lowest = 1 if name == "attention_mask" else 0
        return generator.integers(lowest, highest + 1, shape, np.int64)
    return (scale * generator.normal(size=shape)).astype(spec.dtype)
