"""A Dockerfile's steps without Docker: each stage in a clean folder, as a user who is not root.

Every step of the file is read and run: what is unknown here is refused, not skipped. It differs
from Docker in this: the absolute paths `/app` and `/tmp` mean folders of those names within the
build's folder; the base image is a Python of this machine; RUN is never root. A stage that is
complete moves aside, so the next one finds the same paths, empty.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from tests.servers import as_user

BUILDER = 65534  # who runs the steps where the tests are run by root: nobody
INSTRUCTION = re.compile(r"([A-Z]+)\s+(.*)")
OWN_PATH = re.compile(r"(?<![\w.])/(?=(app|tmp)\b)")
# What pip needs to reach an index from here; Docker's builder has its own.
NETWORK = re.compile(r"(PIP_|SSL_|REQUESTS_|CURL_).*|(https?|all|no)_proxy", re.IGNORECASE)


class StepFailed(Exception):
    """A step ended with an error; the text holds what it wrote."""


@dataclass(frozen=True, slots=True)
class Step:
    instruction: str
    flags: Mapping[str, str]
    words: str


@dataclass(slots=True)
class Stage:
    """What the steps have said so far."""

    environment: dict[str, str] = field(default_factory=dict)
    workdir: Path = Path("/")
    user: int | None = None
    command: Sequence[str] = ()
    healthcheck: Sequence[str] = ()


def read_steps(dockerfile: Path) -> list[Step]:
    """The steps, comments gone and continued lines joined."""
    lines = [line for line in dockerfile.read_text().splitlines() if not line.startswith("#")]
    steps = []
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if not line.strip():
            continue
        instruction = INSTRUCTION.fullmatch(line)
        assert instruction, line
        name, rest = instruction.groups()
        flags = {}
        while flag := re.match(r"--([\w-]+)=(\S+)\s+", rest):
            flags[flag[1]] = flag[2]
            rest = rest[flag.end() :]
        steps.append(Step(name, flags, rest))
    return steps


def builder() -> int | None:
    """Who runs the steps; where the tests are not run by root, whoever runs them."""
    return BUILDER if os.getuid() == 0 else None


class Build:
    """One run of a Dockerfile in `folder`; at its end, `stage` can be started there."""

    def __init__(self, context: Path, folder: Path) -> None:
        self._context = context
        self._root = folder / "root"
        self._stages = folder / "stages"
        self._base = folder / "base"
        self._home = folder / "home"
        self._name = ""
        self._arguments: dict[str, str] = {}
        self._settings: dict[str, Stage] = {}
        self.stage = Stage()
        for made in (self._base, self._home, self._stages):
            made.mkdir()
            self._give(made)
        wrapper = self._base / "python"
        wrapper.write_text(f'#!/bin/sh\nexec {shlex.quote(_find_python())} "$@"\n')
        wrapper.chmod(0o755)

    def run(self) -> None:
        """Raises:
        StepFailed: a RUN did.
        """
        for step in read_steps(self._context / "Dockerfile"):
            getattr(self, f"_{step.instruction.lower()}")(step)

    def ask(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """A command, as `docker exec` would run it."""
        return subprocess.run(
            command,
            cwd=self.stage.workdir,
            env={**self.environment, **environment},
            **as_user(self.stage.user),
            capture_output=True,
            text=True,
            check=False,
        )

    def path(self, path: str) -> Path:
        """Where that path of the image is."""
        return self._root / path.lstrip("/")

    @property
    def environment(self) -> dict[str, str]:
        """What a process of this stage sees."""
        network = {name: value for name, value in os.environ.items() if NETWORK.fullmatch(name)}
        path = f"{self._base}:/usr/local/bin:/usr/bin:/bin"
        return {**network, "HOME": str(self._home), "PATH": path, **self.stage.environment}

    def _arg(self, step: Step) -> None:
        name, _, default = step.words.partition("=")
        if default:
            self._arguments[name] = default

    def _from(self, step: Step) -> None:
        image, _, name = step.words.partition(" AS ")
        if self._root.exists():
            self._root.rename(self._stages / self._name)
            self._settings[self._name] = self.stage
        self._name = name or "last"
        if image in self._settings:
            before = self._settings[image]
            _link(self._stages / image, self._root)
            self.stage = Stage(dict(before.environment), before.workdir)
        else:
            assert image == "${PYTHON_IMAGE}", image
            assert self._arguments["PYTHON_IMAGE"].startswith("python:")
            self.path("/tmp").mkdir(parents=True)
            self.path("/tmp").chmod(0o1777)
            self.stage = Stage()
        self._give(self._root)

    def _workdir(self, step: Step) -> None:
        self.stage.workdir = self.path(step.words)
        self.stage.workdir.mkdir(exist_ok=True)
        self._give(self.stage.workdir)

    def _copy(self, step: Step) -> None:
        *sources, target = step.words.split()
        destination = self.stage.workdir / target
        for source in sources:
            if "from" in step.flags:
                _link(self._stages / step.flags["from"] / source.lstrip("/"), destination)
                continue
            given = self._context / source
            inside = destination / given.name if given.is_file() else destination
            if given.is_dir():
                inside.mkdir()
            for path in _sent(self._context, given):
                copied = inside / path.relative_to(given)
                copied.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, copied)
            self._give(inside)

    def _run(self, step: Step) -> None:
        done = subprocess.run(
            ["/bin/sh", "-c", self._here(step.words)],
            cwd=self.stage.workdir,
            env=self.environment,
            **as_user(builder()),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            raise StepFailed(f"RUN {step.words}\n{done.stdout}")

    def _env(self, step: Step) -> None:
        for assignment in shlex.split(step.words):
            name, _, value = assignment.partition("=")
            value = self._here(value).replace("$PATH", self.environment["PATH"])
            self.stage.environment[name] = value

    def _user(self, step: Step) -> None:
        user, group = map(int, step.words.split(":"))  # by number: Kubernetes checks it so
        assert user == group != 0
        self.stage.user = user if os.getuid() == 0 else None

    def _expose(self, step: Step) -> None:
        assert step.words == self.stage.environment["BENTOML_PORT"]

    def _healthcheck(self, step: Step) -> None:
        self.stage.healthcheck = json.loads(step.words.removeprefix("CMD"))

    def _cmd(self, step: Step) -> None:
        self.stage.command = json.loads(step.words)  # in exec form: signals reach it

    def _here(self, words: str) -> str:
        """The same words with the image's own paths where they are on this machine."""
        return OWN_PATH.sub(f"{self._root}/", words)

    def _give(self, folder: Path) -> None:
        """To the user who runs the steps."""
        if builder():
            for path in (folder, *folder.rglob("*")):
                os.chown(path, BUILDER, BUILDER, follow_symlinks=False)


def read_ignored(context: Path) -> Callable[[PurePosixPath], bool]:
    """Whether `.dockerignore` keeps a path of the context from the build; the last pattern wins."""
    lines = (context / ".dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]

    def ignored(path: PurePosixPath) -> bool:
        verdict = False
        for pattern in patterns:
            if any(_matches(part, pattern.lstrip("!")) for part in (path, *path.parents)):
                verdict = not pattern.startswith("!")
        return verdict

    return ignored


def _matches(path: PurePosixPath, pattern: str) -> bool:
    if pattern.startswith("**/"):
        return fnmatch(path.name, pattern.removeprefix("**/"))
    parts = pattern.split("/")
    return len(parts) == len(path.parts) and all(map(fnmatch, path.parts, parts))


def _sent(context: Path, given: Path) -> Iterator[Path]:
    """The files that a COPY of `given` takes from the context."""
    ignored = read_ignored(context)
    for path in [given] if given.is_file() else sorted(given.rglob("*")):
        if path.is_file() and not ignored(PurePosixPath(path.relative_to(context))):
            yield path


def _link(source: Path, target: Path) -> None:
    """A copy that shares the files' content: a stage's files are replaced, never written into."""
    shutil.copytree(source, target, symlinks=True, copy_function=os.link)


def _find_python() -> str:
    """A Python that the builder may run; the tests' own may lie in a home that is closed to it.

    Raises:
        LookupError: there is none.
    """
    candidates = [sys.executable, "/usr/local/bin/python3", "/usr/bin/python3"]
    trial = "import ensurepip, venv, sys; print(sys._base_executable, sys.version_info >= (3, 11))"
    for candidate in candidates:
        try:
            done = subprocess.run(
                [candidate, "-c", trial],
                **as_user(builder()),
                cwd="/",
                capture_output=True,
                text=True,
                check=True,
            )
        except (OSError, subprocess.CalledProcessError):
            continue
        python, new_enough = done.stdout.split()
        if new_enough == "True":
            return python
    raise LookupError(f"none of {candidates} is a Python with venv that user {BUILDER} may run")
