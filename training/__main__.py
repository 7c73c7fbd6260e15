"""`python -m training COMMAND`: from data or somebody's weights to model folders that serve."""

import argparse
import importlib
import io
import sys
from collections.abc import Sequence
from types import ModuleType

from service.errors import SensoriumError
from training.errors import TrainingError

# Each a module of this package with add_arguments(parser) and run(args), loaded when asked for:
# most bring PyTorch, and packaging a graph or listing folders needs none.
COMMANDS = {
    "import": ("importing", "write model folders of pretrained encoders"),
    "fit": ("fit", "train a model: fit image, fit text, fit audio, fit multimodal"),
    "package": ("packaging", "make a model folder of somebody's ONNX file"),
    "evaluate": ("evaluation", "how good a model folder, or a running service, is on data"),
    "compare": ("comparison", "which of two models is better on the same data"),
    "list": ("catalogue", "the model folders that there are"),
    "fetch": ("fetching", "a public data set, downloaded and laid out for training"),
    "calibrate": ("calibration", "measure an encoder's int8 graph, and write the verdict down"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0, or 1 when it failed and said why, or 130 after Ctrl-C."""
    listed = "\n".join(f"  {name:10} {what}" for name, (_, what) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        "python -m training",
        description=__doc__,
        epilog=f"commands, each with a --help of its own:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND")
    parser.add_argument("options", nargs=argparse.REMAINDER, metavar="...")
    args = parser.parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files may hold bytes that are no text
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        module = importlib.import_module(f"training.{COMMANDS[args.command][0]}")
        if args.command == "fit":  # its flags depend on what is fitted, and how
            module.main(args.options)
        else:
            _run(args.command, module, args.options)
    except (TrainingError, SensoriumError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        hint = "; the same command with --resume goes on from here" if args.command == "fit" else ""
        print(f"interrupted{hint}", file=sys.stderr)
        return 130
    return 0


def _run(command: str, module: ModuleType, options: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(f"python -m training {command}", description=module.__doc__)
    module.add_arguments(parser)
    module.run(parser.parse_args(options))


if __name__ == "__main__":
    sys.exit(main())
