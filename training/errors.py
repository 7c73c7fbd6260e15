"""Every failure of training is one sentence for the person who typed the command.

TrainingError
├── WeightsUnavailable   pip could not fetch them, or they are not the pinned ones
├── ExportFailed         the graph is not what the service takes
├── ParityFailed         the graph does not compute what the network computes
└── FolderExists         that version of the model is there already
"""


class TrainingError(Exception):
    """The root of the failures that `python -m training` shows without a traceback."""


class WeightsUnavailable(TrainingError):
    """The pinned weights cannot be had."""


class ExportFailed(TrainingError):
    """The exported graph is not valid, or not of the types that the service takes."""


class ParityFailed(TrainingError):
    """onnxruntime's answer is too far from PyTorch's."""


class FolderExists(TrainingError):
    """A released version is never overwritten."""
