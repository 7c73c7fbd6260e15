"""Package: somebody's ONNX file becomes a model folder; its graph says most of the manifest.

python -m training package leaves.onnx --modality image --name leaves --imagenet \\
    --labels leaves.txt --example oak.jpg
"""

from training.packaging.command import run
from training.packaging.flags import add_arguments
from training.packaging.graph import Unclear

__all__ = ["Unclear", "add_arguments", "run"]
