"""Public data sets: where they are, what may be done with them, and how they come to a folder."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from service.model.specs import Modality
from training.downloads import Download, download, record_hash
from training.errors import DataUnavailable
from training.originals import (
    lay_out_cifar,
    lay_out_digits,
    lay_out_flowers,
    lay_out_intents,
    lay_out_sentiment,
)

ORIGIN = ".origin.txt"  # in every folder that was fetched: what lies there, and its licence
DIGITS_URL = (
    "https://github.com/Jakobovski/free-spoken-digit-dataset/archive/refs/tags/v1.0.10.tar.gz"
)
FLOWERS_URL = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102"
INTENTS_URL = (
    "https://raw.githubusercontent.com/PolyAI-LDN/task-specific-datasets"
    "/57ec275d8078af65b7731c2a98be812d844a6d6b/banking_data"
)


@dataclass(frozen=True, slots=True)
class PublicData:
    """A data set that anybody may download, and how its files become a folder for training."""

    name: str
    what: str
    modality: Modality
    page: str
    licence: str
    downloads: tuple[Download, ...]
    lay_out: Callable[[Sequence[Path], Path], None]  # the downloaded files, into an empty folder

    def __str__(self) -> str:
        return f"{self.name}: {self.what}\nfrom: {self.page}\nlicence: {self.licence}"

    def is_in(self, folder: Path) -> bool:
        """Whether it was fetched into this folder."""
        origin = folder / ORIGIN
        return origin.is_file() and origin.read_text(encoding="utf-8").startswith(f"{self.name}:")


def fetch(data: PublicData, folder: Path, downloads: Path) -> None:
    """Lay the data set out in `folder`, all of it or nothing, unless it is there already.

    A file whose hash nobody publishes is believed the first time; its hash is written down beside
    it, and every later download must have the same.

    Args:
        downloads: the folder in which the files from the web are kept.

    Raises:
        DataUnavailable: it cannot be downloaded or written, or is not what it should be.
    """
    if data.is_in(folder):
        return
    if folder.exists():
        raise DataUnavailable(f"{folder} is there and is not {data.name}; choose another folder")
    try:
        files = [download(wanted, downloads) for wanted in data.downloads]
        _lay_out(data, files, folder)
        for wanted, file in zip(data.downloads, files, strict=True):
            if wanted.sha256 is None:
                record_hash(file)
    except OSError as error:
        raise DataUnavailable(f"{data.name} cannot be written: {error}") from error


def fetch_digits(cache: Path, url: str = DIGITS_URL) -> Path:
    """The folder of the Free Spoken Digit Dataset, as `find_takes` reads it.

    Raises:
        DataUnavailable: as `fetch` does.
    """
    data = replace(PUBLIC_DATA["spoken-digits"], downloads=(Download(url, sha256=None),))
    folder = cache / data.name
    fetch(data, folder, cache / "downloads" / data.name)
    return folder


def _lay_out(data: PublicData, files: Sequence[Path], folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=folder.parent) as staging:
        whole = Path(staging, folder.name)
        whole.mkdir()
        try:
            data.lay_out(files, whole)
            if not any(whole.iterdir()):
                raise DataUnavailable(f"there is nothing of {data.name} in {files[0]}")
        except DataUnavailable:
            for file in files:
                file.unlink()  # so that the next attempt downloads it anew
            raise
        (whole / ORIGIN).write_text(f"{data}\n", encoding="utf-8")
        whole.rename(folder)


# The publishers give MD5 at best. The SHA-256 of flowers-102, cifar-10 and sst-2 are those in
# TensorFlow Datasets' lists of checksums; banking77's are of the tables at that commit, compared
# with a copy from elsewhere. An archive that GitHub packs on demand has no hash to rely on.
PUBLIC_DATA = {
    data.name: data
    for data in (
        PublicData(
            name="flowers-102",
            what="8,189 photographs of 102 flowers; train 1,020, valid 1,020, test 6,149",
            modality="image",
            page=f"{FLOWERS_URL}/ (Nilsback and Zisserman, 2008)",
            licence="none is given; most pictures were collected from the web: for research",
            downloads=(
                Download(
                    f"{FLOWERS_URL}/102flowers.tgz",
                    "2d01ecc807db462958cfe3d92f57a8c252b4abd240eb955770201e45f783b246",
                ),
                Download(
                    f"{FLOWERS_URL}/imagelabels.mat",
                    "4903e94206bac23bf772aadf06451916df56b58fc483a62db32a97b82656651d",
                ),
                Download(
                    f"{FLOWERS_URL}/setid.mat",
                    "46b8678f91fd95d3c8f4feab80d271a6c834a1dd896fe29fd3e6ad9ce5c8dccd",
                ),
            ),
            lay_out=lay_out_flowers,
        ),
        PublicData(
            name="cifar-10",
            what="60,000 pictures, 32 pixels wide, of 10 classes; train 50,000, test 10,000",
            modality="image",
            page="https://www.cs.toronto.edu/~kriz/cifar.html (Krizhevsky, 2009)",
            licence="none is given; the pictures were collected from the web: for research",
            downloads=(
                Download(  # the binary version: the Python one is made of pickles
                    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
                ),
            ),
            lay_out=lay_out_cifar,
        ),
        PublicData(
            name="spoken-digits",
            what="3,000 recordings of the words zero to nine by 6 speakers",
            modality="audio",
            page="https://github.com/Jakobovski/free-spoken-digit-dataset (v1.0.10)",
            licence="CC BY-SA 4.0",
            downloads=(Download(DIGITS_URL, sha256=None),),
            lay_out=lay_out_digits,
        ),
        PublicData(
            name="sst-2",
            what="film reviews, negative or positive; train 67,349 phrases, valid 872 sentences;"
            " the labels of its test split are not published, so there is none",
            modality="text",
            page="https://nlp.stanford.edu/sentiment/ (Socher et al., 2013), in the form of GLUE",
            licence="none is given; the sentences are from film reviews: for research",
            downloads=(
                Download(
                    "https://dl.fbaipublicfiles.com/glue/data/SST-2.zip",
                    "d67e16fb55739c1b32cdce9877596db1c127dc322d93c082281f64057c16deaa",
                ),
            ),
            lay_out=lay_out_sentiment,
        ),
        PublicData(
            name="banking77",
            what="13,083 questions to a bank with 77 intents; train 10,003, test 3,080",
            modality="text",
            page="https://github.com/PolyAI-LDN/task-specific-datasets (Casanueva et al., 2020)",
            licence="CC BY 4.0",
            downloads=(
                Download(
                    f"{INTENTS_URL}/train.csv",
                    "b06e26ac675513959a63135f11b94ea7786ed02da65db93a5650d8838cbc664b",
                ),
                Download(
                    f"{INTENTS_URL}/test.csv",
                    "d12d6e3bc4c3103966ae786dc435913c0c563dfa328f5a3646d0e62cfeeb474d",
                ),
            ),
            lay_out=lay_out_intents,
        ),
    )
}
