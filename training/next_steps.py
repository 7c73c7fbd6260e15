"""Next steps after training, as shell commands."""

import shlex
import sys
from pathlib import Path

from service.model.manifest import Manifest, read_manifest

SERVICE = "localhost:3000"
DEFAULT_MODELS = Path("models")


def tell_next(folder: Path) -> str:
    """The commands that open the report, load the model and query it."""
    manifest = read_manifest(folder)
    models = folder.parents[1]
    serve = "make serve"
    if models.resolve() != DEFAULT_MODELS.resolve():
        serve = f"SENSORIUM_MODELS={shlex.quote(str(models))} {serve}"
    report = (folder / "report.html").resolve().as_uri()
    return "\n".join(
        (
            "",
            "# open the report",
            f"{shlex.quote(spell_python())} -m webbrowser {shlex.quote(report)}",
            f"# load the model into a running service; to start one: {serve}",
            f"curl -X POST {SERVICE}/v2/repository/models/{manifest.name}/load",
            "# query the model",
            _ask(manifest, folder),
        )
    )


def spell_python() -> str:
    """The path of this interpreter, relative to this folder if possible."""
    python = Path(sys.executable)
    if python.is_relative_to(Path.cwd()):
        python = python.relative_to(Path.cwd())
    return str(python)


def _ask(manifest: Manifest, folder: Path) -> str:
    example = folder / manifest.example.file
    url = f"{SERVICE}/v1/{manifest.kind}/classify?model={manifest.name}&version={manifest.version}"
    sent = f"--data-binary {shlex.quote(f'@{example}')}"
    if manifest.kind == "multimodal":  # its example is one for its first encoder
        sent = f"-F {shlex.quote(f'{manifest.modalities[0]}=@{example}')}"
    return f"curl {sent} {shlex.quote(url)}"
