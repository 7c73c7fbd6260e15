"""`python -m training import` brings pretrained encoders, `... fit` trains models of our own."""

import argparse
import importlib
import sys
from collections.abc import Sequence

from service.errors import SensoriumError
from training import importing
from training.errors import TrainingError

# Each a module of this package with add_arguments(parser) and run(args).
FITS = ("image", "text", "audio")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 1 is returned when it failed and said why."""
    parser = argparse.ArgumentParser("python -m training", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    importing.add_arguments(
        commands.add_parser("import", help="write model folders of pretrained encoders")
    )
    fit = commands.add_parser("fit", help="train a model and write its folder")
    fit.add_argument("what", choices=FITS)
    fit.add_argument("options", nargs=argparse.REMAINDER, help="`fit image --help` lists them")
    args = parser.parse_args(arguments)
    try:
        if args.command == "import":
            importing.run(args)
        else:
            _fit(args.what, args.options)
    except (TrainingError, SensoriumError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _fit(what: str, options: Sequence[str]) -> None:
    """Loaded only when asked for: a training module brings more libraries than an import needs."""
    module = importlib.import_module(f"training.{what}")
    parser = argparse.ArgumentParser(f"python -m training fit {what}")
    module.add_arguments(parser)
    module.run(parser.parse_args(options))


if __name__ == "__main__":
    sys.exit(main())
