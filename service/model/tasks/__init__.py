"""Tasks: what models can be asked for. Routes, forms and documents are made from this registry."""

from service.model.tasks.classify import Classify
from service.model.tasks.embed import Embed
from service.model.tasks.task import Task

TASKS: dict[str, type[Task]] = {
    task.name: task
    for task in (
        Classify,
        Embed,
    )
}
