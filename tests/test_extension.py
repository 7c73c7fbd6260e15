"""A modality and a task cost a file and a line each: docs/extending.md in a copy of the service."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

from sensorium_client import client, items
from service.model.preprocessing import MODALITIES
from service.model.tasks import TASKS

ROOT = Path(__file__).parents[1]
GUIDE = ROOT / "docs/extending.md"

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
    table, _, estimate, _ = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    (preprocessing / "table.py").write_text(table)
    (tasks / "estimate.py").write_text(estimate)
    base = "from service.model.preprocessing import audio, image, text\n"
    add_line(preprocessing / "__init__.py", base, "from service.model.preprocessing import table")
    base = "from service.model.tasks import classify, embed\n"
    add_line(tasks / "__init__.py", base, "from service.model.tasks import estimate")
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "models")]
    ended = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


def test_the_client_knows_every_modality_and_task() -> None:
    assert set(get_args(items.Modality)) == set(MODALITIES)
    assert set(get_args(client.Task)) == set(TASKS)
