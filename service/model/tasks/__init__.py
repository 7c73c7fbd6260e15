"""Tasks: what models can be asked for. Routes, forms and documents are made from `TASKS`.

Each import adds the module's task: a new task costs its file and a line here.
"""

# ruff: noqa: F401
from service.model.tasks import classify, embed
from service.model.tasks.task import TASKS as TASKS
