"""Whatever a client sends, the answer says what is wrong with it, and the next client gets his."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from loadtests.faults.corpus import send
from loadtests.faults.examples import read_examples
from tests.conftest import write_small_models
from tests.hostile import corpus, photographs
from tests.hostile.case import BAD, OK, PROBLEM, request
from tests.servers import served

pytestmark = pytest.mark.anyio

SEED = 20_260_101
PROBLEM_HEADERS = {"content-type": PROBLEM, "x-request-id": "1"}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def port(models: Path) -> Iterator[int]:
    with served(models) as url:
        yield urlsplit(url).port or 0


@pytest.mark.parametrize("start", ["/v1/image", "/v1/audio", "/v1/text", ""])
async def test_every_case_is_answered_right_and_so_is_who_comes_next(
    start: str, port: int, models: Path
) -> None:
    """By the beginning of the case's name, which is a route's; the others come last."""
    starts = ("/v1/image", "/v1/audio", "/v1/text")
    cases = [
        case
        for case in corpus(SEED)
        if (case.name.startswith(start) if start else not case.name.startswith(starts))
    ]
    assert len(cases) > 50
    tally = await send(port, cases, read_examples(models))
    assert tally.complaints + tally.wrong == []


async def test_damaged_photographs(port: int, models: Path, shared_data: Path) -> None:
    paths = sorted((shared_data / "photos").glob("*.JPEG"))[::50]
    cases = list(photographs(SEED, (path.read_bytes() for path in paths)))
    assert len(cases) > 100
    tally = await send(port, cases, read_examples(models))
    assert tally.complaints + tally.wrong == []


def test_the_same_seed_makes_the_same_corpus_and_another_one_another() -> None:
    first, again, other = corpus(1), corpus(1), corpus(2)
    same = different = 0
    for a, b, c in zip(first, again, other, strict=True):
        assert a == b
        assert a.name == c.name
        same += a.message == c.message
        different += a.message != c.message
    assert same > 100
    assert different > 100


def test_names_of_cases_are_their_own() -> None:
    names = [case.name for case in corpus(SEED)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("status", "headers", "body", "complaint"),
    [
        (500, PROBLEM_HEADERS, b"{}", "500, not one of"),
        (400, {"content-type": "text/plain"}, b"no", "without a problem document"),
        (400, PROBLEM_HEADERS, b'{"status": 422, "code": "x"}', "of another status"),
        (400, PROBLEM_HEADERS, b'{"status": 400, "code": ""}', "without a code"),
        (
            400,
            PROBLEM_HEADERS,
            b'{"status": 400, "code": "x", "request_id": "2"}',
            "of another request",
        ),
        (200, {"content-type": "application/json"}, b'{"vector": [NaN]}', "not JSON"),
        (200, {"content-type": "application/json"}, b'{"vector": [1e999]}', "infinite"),
    ],
)
def test_wrong_answers_are_noticed(
    status: int, headers: dict[str, str], body: bytes, complaint: str
) -> None:
    case = request("a case", "/", b"", OK | BAD)
    assert complaint in (case.complaint(status, headers, body) or "")


def test_a_good_item_that_suffers_from_its_neighbour_is_noticed() -> None:
    case = request("a case", "/", b"", BAD, good_items=1)
    ok, bad = '{"status": "ok"}', '{"status": "error", "error": {"status": 400}}'
    fault = '{"status": "error", "error": {"status": 500}}'

    def complaint(*items: str) -> str | None:
        return case.complaint(200, {}, f'{{"results": [{", ".join(items)}]}}'.encode())

    assert complaint(ok, bad) is None
    assert complaint(bad, bad) == "a good item suffered"
    assert "500" in (complaint(ok, fault) or "")
    assert complaint(ok) == "1 results"
