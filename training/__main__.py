"""`python -m training COMMAND`: make model folders from data or pretrained weights."""

import argparse
import importlib
import io
import sys
from collections.abc import Sequence
from types import ModuleType

from service.errors import SensoriumError
from training.errors import TrainingError

# Modules of this package with add_arguments(parser) and run(args). They are imported on demand,
# because most import PyTorch, which `package` and `list` do not need.
COMMANDS = {
    "import": ("importing", "write model folders of pretrained encoders"),
    "fit": ("fit", "train a model: fit image, fit text, fit audio or fit multimodal"),
    "package": ("packaging", "make a model folder from an ONNX file"),
    "evaluate": ("evaluation", "measure a model folder or a running service on labelled data"),
    "compare": ("comparison", "compare two models on the same data"),
    "list": ("catalogue", "list the model folders"),
    "fetch": ("fetching", "download a public data set and lay it out for training"),
    "calibrate": ("calibration", "measure an encoder's int8 graph and store the verdict"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 after an error, 130 after Ctrl-C."""
    listed = "\n".join(f"  {name:10} {what}" for name, (_, what) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        "python -m training",
        description=__doc__,
        epilog=f"commands (each has its own --help):\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND")
    parser.add_argument("options", nargs=argparse.REMAINDER, metavar="...")
    args = parser.parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names may be invalid UTF-8
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        module = importlib.import_module(f"training.{COMMANDS[args.command][0]}")
        if args.command == "fit":  # its flags depend on modality and mode
            module.main(args.options)
        else:
            _run(args.command, module, args.options)
    except (TrainingError, SensoriumError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        hint = "; repeat the command with --resume to continue" if args.command == "fit" else ""
        print(f"interrupted{hint}", file=sys.stderr)
        return 130
    return 0


def _run(command: str, module: ModuleType, options: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(f"python -m training {command}", description=module.__doc__)
    module.add_arguments(parser)
    module.run(parser.parse_args(options))


if __name__ == "__main__":
    sys.exit(main())
