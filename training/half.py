"""Half precision: an fp16 variant of a graph, for GPUs, kept where one shows that it is faster."""

from pathlib import Path

import onnx
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.transformers.float16 import convert_float_to_float16

from service.errors import ProviderMissing
from service.runtime.session import choose_provider
from service.settings import Provider
from training.errors import TrainingError


class NoDevice(TrainingError):
    """There is nothing here to measure an fp16 graph on."""


def check_device(provider: Provider) -> None:
    """Raises:
    NoDevice: this onnxruntime cannot run on such a device.
    """
    try:
        choose_provider(provider)
    except ProviderMissing as error:
        raise NoDevice(
            f"there is no {provider.upper()} device here; an fp16 graph is written only where one"
            " was measured to be faster with it"
        ) from error


def halve(graph: Path, target: Path) -> None:
    """Write the fp16 graph of an fp32 graph to `target`; inputs and outputs keep their types."""
    model = ONNXModel(convert_float_to_float16(onnx.load(graph), keep_io_types=True))
    model.topological_sort()  # the casts around what fp16 cannot do stand at the end
    onnx.save(model.model, target)
