"""Reads a request's JSON strictly: what is ambiguous is refused, never guessed (ERR-4); called by the resources."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Set
from functools import cache
from typing import Any, TypeVar

import falcon
import msgspec
from falcon.asgi import Request

from tidegate.contract.errors import Violation
from tidegate.resources.errors import InvalidContentError, InvalidMembersError, UnsupportedContentTypeError

MAXIMUM_DEPTH = 32
MAXIMUM_DIGITS = 400
"""As many as the largest double has, and some; Python would refuse thousands with a text about itself."""

_Content = TypeVar("_Content", bound=msgspec.Struct)


def read_struct(req: Request, kind: type[_Content]) -> _Content:
    """The body as a `kind`; unknown members are refused, in structs inside of it too.

    Raises:
        UnsupportedContentTypeError: It is not declared as JSON in UTF-8.
        InvalidContentError: It is not sound JSON.
        InvalidMembersError: Members are unknown, missing or wrong; it names all of them. Or `kind` itself refuses their combination.
    """
    value = read_object(req)
    violations = tuple(_violations(value, kind))
    if violations:
        raise InvalidMembersError(violations)
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as ex:
        # Each member is fine, so these are the words of its `__post_init__`.
        raise InvalidMembersError((_wrong("$", str(ex)),)) from ex


def read_object(req: Request) -> dict[str, Any]:
    """The body as a JSON object of any members.

    Raises:
        UnsupportedContentTypeError: It is not declared as JSON in UTF-8.
        InvalidContentError: It is not sound JSON.
        InvalidMembersError: It is JSON but no object.
    """
    _check_type(req.content_type, req.get_header("Content-Encoding"))
    value = parse(req.context.body)
    if not isinstance(value, dict):
        raise InvalidMembersError((Violation("$", "Invalid", "must be an object"),))
    return value


def parse(body: bytes) -> object:
    """The value of the JSON text `body`.

    Raises:
        InvalidContentError: Not UTF-8, not JSON, a repeated member, a number no double holds, a lone surrogate, nested deeper than 32.
    """
    try:
        value = json.loads(
            body.decode(), object_pairs_hook=_object, parse_constant=_refuse_constant, parse_float=_finite, parse_int=_integer
        )
        _check_depth(value)
        _check_text(value)
    except RecursionError as ex:
        raise InvalidContentError(f"nested deeper than {MAXIMUM_DEPTH} levels") from ex
    except UnicodeError as ex:
        raise InvalidContentError("not valid UTF-8") from ex
    except json.JSONDecodeError as ex:
        raise InvalidContentError(f"not valid JSON at line {ex.lineno}, column {ex.colno}") from ex
    except ValueError as ex:
        raise InvalidContentError(f"not valid JSON: {ex}") from ex
    return value


def _check_type(content_type: str | None, content_encoding: str | None) -> None:
    if (content_encoding or "identity").lower() != "identity":
        raise UnsupportedContentTypeError("the body must not be encoded")
    media_type, parameters = falcon.parse_header(content_type or "")
    charset = parameters.pop("charset", "utf-8").lower()
    if media_type.lower() != "application/json" or parameters or charset != "utf-8":
        raise UnsupportedContentTypeError("the body must be application/json in UTF-8")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("an object has two members of the same name")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _integer(text: str) -> int:
    if len(text) > MAXIMUM_DIGITS:
        raise ValueError("a number is too large")
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("a number is too large")
    return number


def _check_depth(value: object) -> None:
    level = [value]
    for _ in range(MAXIMUM_DEPTH):
        level = [child for parent in level for child in _children(parent)]
    if any(isinstance(child, (dict, list)) for child in level):
        raise ValueError(f"nested deeper than {MAXIMUM_DEPTH} levels")


def _children(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _check_text(value: object) -> None:
    # An escaped lone surrogate passes json.loads and would break every later encoder.
    json.dumps(value, ensure_ascii=False).encode()


@cache
def _fields(kind: type[msgspec.Struct]) -> Mapping[str, msgspec.structs.FieldInfo]:
    # Worked out once: msgspec evaluates the annotations anew each time.
    return {field.encode_name: field for field in msgspec.structs.fields(kind)}


def _violations(value: dict[str, Any], kind: type[msgspec.Struct]) -> Iterator[Violation]:
    fields = _fields(kind)
    yield from _unknown("$", value.keys() - fields.keys())
    for name, field in fields.items():
        if name not in value:
            if field.required:
                yield Violation(f"$.{name}", "Required", "is required")
            continue
        try:
            member = msgspec.convert(value[name], field.type)
        except msgspec.ValidationError as ex:
            yield _wrong(f"$.{name}", str(ex))
        else:
            yield from _dropped(f"$.{name}", value[name], member)


def _dropped(path: str, given: object, made: object) -> Iterator[Violation]:
    # msgspec leaves unknown members out without a word, unless a struct says `forbid_unknown_fields`.
    match given, made:
        case dict(), msgspec.Struct():
            names = {name: field.name for name, field in _fields(type(made)).items()}
            yield from _unknown(path, given.keys() - names.keys() - {made.__struct_config__.tag_field})
            children = [(f".{name}", given[name], getattr(made, names[name])) for name in names if name in given]
        case dict(), dict():
            children = [(f".{name}", given[name], made[name]) for name in made if name in given]
        case list(), list() | tuple():
            children = [(f"[{number}]", *pair) for number, pair in enumerate(zip(given, made, strict=False))]
        case _:
            return
    for place, value, member in children:
        yield from _dropped(path + place, value, member)


def _unknown(path: str, names: Set[str]) -> Iterator[Violation]:
    return (Violation(f"{path}.{name}", "Unknown", "is not a member of this object") for name in sorted(names))


def _wrong(path: str, message: str) -> Violation:
    # msgspec appends the place inside the member, as in "Expected `int`, got `str` - at `$.lines[0]`".
    text, _, place = message.partition(" - at `$")
    return Violation(path + place.rstrip("`"), "Invalid", text)
