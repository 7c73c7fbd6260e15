"""Every failure of training is one sentence for the person who typed the command.

TrainingError
├── DataUnavailable      a data set cannot be downloaded, or is not the one that is meant
├── BadFlag              flags that do not go together, or do not suit the network
├── BadData              the data are not laid out, or not to be read, as training needs them
├── WeightsUnavailable   pip could not fetch them, or they are not the pinned ones
├── ExportFailed         the graph is not what the service takes
├── ParityFailed         the graph does not compute what the network computes
├── FolderExists         that version of the model is there already
└── CannotWrite          a folder cannot be written to
"""


class TrainingError(Exception):
    """The root of the failures that `python -m training` shows without a traceback."""


class DataUnavailable(TrainingError):
    """A public data set cannot be had, or is not the one that is meant."""


class BadFlag(TrainingError):
    """A flag is wrong beside the others, or for the network."""


class BadData(TrainingError):
    """The data are not laid out, or not to be read, as training needs them."""


class WeightsUnavailable(TrainingError):
    """The pinned weights cannot be had."""


class ExportFailed(TrainingError):
    """The exported graph is not valid, or not of the types that the service takes."""


class ParityFailed(TrainingError):
    """onnxruntime's answer is too far from PyTorch's."""


class FolderExists(TrainingError):
    """A released version is never overwritten."""


class CannotWrite(TrainingError):
    """A folder of models, or of what is kept between runs, cannot be written to."""
