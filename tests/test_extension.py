"""A modality and a task cost a file and a line each: shown in a copy of the service."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

TABLE = '''"""Table: one row of numbers, as CSV."""

from typing import Literal

import numpy as np

from service.errors import Unreadable
from service.model.preprocessing.preprocessor import Preprocessor
from service.model.specs import Positive, PreprocessingSpec
from service.model.types import Sample
from service.runtime.tensors import TensorSpec


class TablePreprocessing(PreprocessingSpec):
    modality: Literal["table"]
    input: str
    columns: Positive


class TablePreprocessor(Preprocessor):
    modality = "table"
    plural = "rows of tables"
    spec_type = TablePreprocessing
    media_types = ("text/csv",)

    def inputs(self):
        return {self.spec.input: TensorSpec("float32", (None, self.spec.columns))}

    def decode(self, payload):
        try:
            row = np.array(payload.split(b","), np.float32)
        except ValueError as error:
            raise Unreadable(f"the row holds no numbers: {error}") from error
        if len(row) != self.spec.columns:
            raise Unreadable(f"the row has {len(row)} columns, not {self.spec.columns}")
        return Sample(row)

    def preview(self, payload):
        return {"row": self.decode(payload).data}
'''

ESTIMATE = '''"""Estimate: the output is one number."""

from typing import ClassVar

import numpy as np
from pydantic import BaseModel

from service.model.specs import TaskSpec
from service.model.tasks.task import Task
from service.runtime.tensors import TensorSpec


class Digits(BaseModel):
    digits: int = 2


class Estimate(Task):
    name = "estimate"
    summary = "A number for each of {files}."
    spec_type = TaskSpec
    options_type = Digits
    answer_fields: ClassVar = {"estimate": float}
    example: ClassVar = {"estimate": 12.5}
    width = 1

    def interpret(self, row):
        return row[self.output].astype(np.float32)

    def render(self, answer, options):
        return {"estimate": round(float(answer[0]), options.digits)}

    def tensors(self):
        return {"estimate": TensorSpec("float32", (None, 1))}

    def to_tensors(self, answers):
        return {"estimate": np.stack(answers)}

    def agrees(self, answer, other, others_answer):
        return bool(abs(answer - others_answer) < 0.1)
'''

# Asks the copy through /v1 and /v2; prints what differs from what is expected.
PROGRAM = '''
import asyncio, sys
from pathlib import Path

from service.model.preprocessing import MODALITIES
from tests.conftest import write_model
from tests.test_routes import serving
from service.api import build_api

GRAPH = """
<ir_version: 8, opset_import: ["" : 17]>
sums (float[N, 3] row) => (float[N, 1] total) {
    axis = Constant<value_ints = [1]>()
    total = ReduceSum(row, axis)
}
"""

def expect(found, wanted):
    if found != wanted:
        sys.exit(f"{found!r} is not {wanted!r}")

async def main(models):
    write_model(
        models, GRAPH, name="sums",
        preprocessing={"modality": "table", "input": "row", "columns": 3},
        tasks={"estimate": {"output": "total"}},
        example={"file": "example.csv", "tolerance": {"fp32": 1e-4}},
        files={"example.csv": b"1,2,3"},
    )
    async with serving(models) as client:
        answer = await client.post("/v1/table/estimate?digits=1", content=b"1,2,0.25")
        expect(answer.json()["results"], [{"index": 0, "status": "ok", "estimate": 3.2}])
        wrong = await client.post("/v1/table/estimate", content=b"1,2")
        expect((wrong.status_code, wrong.json()["detail"]), (422, "the row has 2 columns, not 3"))
        shown = await client.post("/v1/table/preview", content=b"1,2,4")
        expect(shown.json(), {"model": "sums", "version": "1", "row": [1, 2, 4]})
        form = (await client.get("/v2/models/sums")).json()
        expect([tensor["name"] for tensor in form["inputs"]], ["table"])
        expect([tensor["name"] for tensor in form["outputs"]], ["truncated", "estimate"])
        asked = {"name": "table", "datatype": "BYTES", "shape": [1, 1], "data": ["4,5,6"]}
        infer = await client.post("/v2/models/sums/infer", json={"inputs": [asked]})
        outputs = {tensor["name"]: tensor["data"] for tensor in infer.json()["outputs"]}
        expect(outputs, {"truncated": [False], "estimate": [15.0]})
        defaults = (await client.get("/v2/repository/defaults")).json()
        expect(defaults["effective"], {"table/estimate": "sums", "table/preview": "sums"})
    paths = build_api().openapi()["paths"]
    expect("/v1/table/estimate" in paths and "/v1/image/estimate" in paths, True)
    body = paths["/v1/table/estimate"]["post"]["requestBody"]["content"]
    expect("text/csv" in body, True)

asyncio.run(main(Path(sys.argv[1])))
'''


def add_line(path: Path, after: str, line: str) -> None:
    text = path.read_text()
    assert after in text
    path.write_text(text.replace(after, f"{after}{line}\n", 1))


def test_a_modality_and_a_task_cost_a_file_and_a_line_each(tmp_path: Path) -> None:
    copy = tmp_path / "project"
    for folder in ("service", "tests", "loadtests"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    preprocessing, tasks = copy / "service/model/preprocessing", copy / "service/model/tasks"
    (preprocessing / "table.py").write_text(TABLE)
    (tasks / "estimate.py").write_text(ESTIMATE)
    base = "from service.model.preprocessing import audio, image, text\n"
    add_line(preprocessing / "__init__.py", base, "from service.model.preprocessing import table")
    base = "from service.model.tasks import classify, embed\n"
    add_line(tasks / "__init__.py", base, "from service.model.tasks import estimate")
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "models")]
    ended = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
