"""Requests and answers of `infer`: JSON with tensors inside it, or as bytes after it."""

from codecs import BOM_UTF8
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NotRequired, cast

import orjson
from pydantic import ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError
from pydantic_core import from_json as parse_json
from starlette.datastructures import Headers
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from service.api.problems import first_error
from service.api.request.media import decode_base64
from service.api.request.payloads import bound_json
from service.api.request.strict import Strict, without_nulls
from service.api.v2.datatypes import DATATYPES, Datatype, from_binary, from_json, to_binary, to_json
from service.errors import BadRequest, CallerError
from service.runtime.tensors import Array
from service.settings import MAX_TIMEOUT_MS

# Six images of 224 x 224; binary tensors after the JSON can be larger. A million elements stop the
# event loop for 0.2 s; 64 MB of `[],` took 10 s and 2.4 GB.
MAX_ELEMENTS = 1_000_000
MAX_VALUES = 60_000  # lists, objects and names: one image with a list for each pixel
MAX_TENSORS = 64

HEADER_LENGTH = "Inference-Header-Content-Length"  # bytes of JSON before the binary tensors


Side = Annotated[int, Field(ge=0, lt=2**31)]
# The names of MLServer's codecs, which its clients send. Only base64 needs decoding.
ContentType = Literal["str", "np", "base64"]


class Wire(Strict):
    model_config = ConfigDict(strict=True)


class InputParameters(Wire):
    binary_data_size: NonNegativeInt | None = None  # its bytes after the JSON
    content_type: ContentType | None = None  # of BYTES


class Input(Wire):
    name: str
    shape: Annotated[list[Side], Field(min_length=1, max_length=8)]
    datatype: Datatype
    parameters: InputParameters = InputParameters()
    data: list[Any] | None = None


class OutputParameters(Wire):
    binary_data: bool | None = None
    classification: PositiveInt | None = None  # the number of top classes, as value:index:label
    content_type: Literal["str", "np"] | None = None  # accepted but ignored


class RequestedOutput(Wire):
    name: str
    parameters: OutputParameters = OutputParameters()


class RequestParameters(Wire):
    binary_data_output: bool = False
    content_type: ContentType | None = None  # default for the inputs
    timeout: Annotated[int, Field(ge=0, le=MAX_TIMEOUT_MS * 1000)] = 0  # microseconds; 0: none
    priority: Annotated[int, Field(le=0, description="There is one queue, without priorities.")] = 0


class Question(Wire):
    """The JSON of an `infer` request. The path names the model; some clients repeat it here."""

    model_name: str | None = None
    model_version: str | None = None
    id: str | None = None
    parameters: RequestParameters = RequestParameters()
    inputs: Annotated[list[Input], Field(min_length=1, max_length=MAX_TENSORS)]
    outputs: list[RequestedOutput] = Field([], max_length=MAX_TENSORS)  # empty: all

    def wants_bytes(self, output: str) -> bool:
        """Whether the output is sent as bytes: its own parameter, else the request's."""
        own = [asked.parameters.binary_data for asked in self.outputs if asked.name == output]
        return self.parameters.binary_data_output if own in ([], [None]) else own == [True]


class BinarySize(TypedDict):
    binary_data_size: int


class OutputTensor(TypedDict):
    """A tensor of an answer: in `data`, or after the JSON with its size in `parameters`."""

    name: str
    shape: list[int]
    datatype: Datatype
    data: NotRequired[list[Any]]
    parameters: NotRequired[BinarySize]


class Answer(TypedDict):
    """The JSON of an `infer` response."""

    id: NotRequired[str]
    model_name: str
    model_version: str
    outputs: list[OutputTensor]


@dataclass(frozen=True, slots=True)
class Asked:
    """A request with its tensors."""

    question: Question
    inputs: dict[str, Array]


def read(body: bytes, headers: Headers) -> Asked:
    """Parse a request: its JSON, and the tensors inside and after it.

    Raises:
        BadRequest: a field, a tensor or a length is invalid.
        TooLarge: the JSON has too many elements.
    """
    length = _header_length(headers, len(body))
    document = body[:length].removeprefix(BOM_UTF8)
    bound_json(document, MAX_ELEMENTS, MAX_VALUES)
    try:
        question = Question.model_validate(without_nulls(parse_json(document)))
    except ValidationError as error:
        first = first_error(error)
        where = ".".join(str(part) for part in first["loc"]) or "the JSON"
        raise BadRequest(f"{where}: {first['msg']}") from error
    except ValueError as error:
        raise BadRequest(f"the body is not JSON in UTF-8: {error}") from error
    rest = memoryview(body)[length:]
    tensors: dict[str, Array] = {}
    for given in question.inputs:
        if given.name in tensors:
            raise BadRequest(f"input {given.name} is given twice")
        size = given.parameters.binary_data_size
        if (size is None) == (given.data is None):
            raise BadRequest(f"input {given.name}: give either data or binary_data_size")
        try:
            tensors[given.name] = _tensor(given, rest[:size], question.parameters.content_type)
        except CallerError as error:
            error.args = (f"input {given.name}: {error}",)
            raise
        rest = rest[size or 0 :]
    if rest:
        raise BadRequest(f"{len(rest)} bytes after the JSON belong to no input")
    return Asked(question, tensors)


def write(
    question: Question, model: str, version: str, tensors: Mapping[str, Array]
) -> tuple[bytes, int | None]:
    """The body of a response and, if binary tensors follow its JSON, the length of the JSON.

    Raises:
        BadRequest: JSON cannot represent a tensor.
    """
    outputs, chunks = [], []
    for name, tensor in tensors.items():
        output = OutputTensor(
            name=name, shape=list(tensor.shape), datatype=DATATYPES[tensor.dtype.name]
        )
        if question.wants_bytes(name):
            chunks.append(to_binary(tensor))
            output["parameters"] = BinarySize(binary_data_size=len(chunks[-1]))
        else:
            try:
                output["data"] = cast(list[Any], to_json(tensor))
            except BadRequest as error:
                raise BadRequest(f"output {name}: {error}") from error
        outputs.append(output)
    answer = Answer(model_name=model, model_version=version, outputs=outputs)
    if question.id is not None:
        answer["id"] = question.id
    header = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    return b"".join([header, *chunks]), len(header) if chunks else None


def _header_length(headers: Headers, body: int) -> int:
    given = headers.get(HEADER_LENGTH)
    if given is None:
        return body
    if not (given.isascii() and given.isdecimal() and len(given) < 19 and int(given) <= body):
        raise BadRequest(f"{HEADER_LENGTH} must be a number of bytes up to {body}, the body's size")
    return int(given)


def _tensor(given: Input, data: memoryview, default: ContentType | None) -> Array:
    size = given.parameters.binary_data_size or 0
    if given.data is not None:
        tensor = from_json(given.datatype, given.shape, given.data)
    elif len(data) < size:
        raise BadRequest(f"binary_data_size is {size}, but {len(data)} bytes are left")
    else:
        tensor = from_binary(given.datatype, given.shape, data)
    if (given.parameters.content_type or default) == "base64" and given.datatype == "BYTES":
        for place, encoded in enumerate(tensor.flat):
            tensor.flat[place] = decode_base64(encoded.decode("latin-1"))
    return tensor
