"""`python -m training COMMAND`: from data or somebody's weights to model folders that serve."""

import argparse
import importlib
import sys
from collections.abc import Sequence

from service.errors import SensoriumError
from training.errors import TrainingError

# Each a module of this package with add_arguments(parser) and run(args), loaded when asked for:
# most bring PyTorch, and packaging a graph or listing folders needs none.
COMMANDS = {
    "import": ("importing", "write model folders of pretrained encoders"),
    "fit": ("", "train a model and write its folder: fit image, fit text, fit audio"),
    "package": ("packaging", "make a model folder of somebody's ONNX file"),
    "evaluate": ("evaluation", "how good a model folder, or a running service, is on data"),
    "compare": ("comparison", "which of two models is better on the same data"),
    "list": ("catalogue", "the model folders that there are"),
    "calibrate": ("calibration", "measure an encoder's int8 graph, and write the verdict down"),
}
FITS = ("image", "text", "audio")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 1 is returned when it failed and said why."""
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
    try:
        if args.command == "fit":
            _fit(args.options)
        else:
            _run(args.command, COMMANDS[args.command][0], args.options)
    except (TrainingError, SensoriumError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _fit(options: Sequence[str]) -> None:
    parser = argparse.ArgumentParser("python -m training fit")
    parser.add_argument("what", choices=FITS)
    parser.add_argument("options", nargs=argparse.REMAINDER, metavar="...")
    args = parser.parse_args(options)
    _run(f"fit {args.what}", args.what, args.options)


def _run(command: str, module: str, options: Sequence[str]) -> None:
    loaded = importlib.import_module(f"training.{module}")
    parser = argparse.ArgumentParser(f"python -m training {command}", description=loaded.__doc__)
    loaded.add_arguments(parser)
    loaded.run(parser.parse_args(options))


if __name__ == "__main__":
    sys.exit(main())
