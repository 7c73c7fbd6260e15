"""The errors of training; each message is a sentence for the user of the command.

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
    """The base of the errors that `python -m training` prints without a traceback."""


class DataUnavailable(TrainingError):
    """A public data set cannot be downloaded, or its hash is wrong."""


class BadFlag(TrainingError):
    """A flag contradicts the others, or does not fit the network."""


class BadData(TrainingError):
    """The data are unreadable, or their layout is wrong."""


class WeightsUnavailable(TrainingError):
    """The pinned weights are not available."""


class ExportFailed(TrainingError):
    """The exported graph is invalid, or the service does not accept its types."""


class ParityFailed(TrainingError):
    """onnxruntime and PyTorch differ too much."""


class FolderExists(TrainingError):
    """A released version is never overwritten."""


class CannotWrite(TrainingError):
    """The models folder or the cache is not writable."""
