"""YAML as these manifests need it: the plain scalars of JSON, no aliases, no key twice, bounded size; called by `manifests.py`.

Narrower than kubectl's reading where that has surprises: `on` is text here, and numbers are decimal.
"""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from tidegate.contract.errors import TidegateError

MAXIMUM_BYTES = 1024 * 1024
"""As large as what etcd takes of an object."""


class UnreadableManifestError(TidegateError):
    """A file cannot be read, or is not such YAML; the text says why."""


class _Loader(yaml.SafeLoader):
    """The core schema of YAML 1.2: no dates, no sexagesimal numbers, no yes and no."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "aliases are not allowed", self.get_mark())
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for child, _ in node.value:
            key = self.construct_object(child, deep=True)
            if not isinstance(key, str) or key in seen:
                problem = "is there twice" if isinstance(key, str) else "is not a string"
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} {problem}", child.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    # No leading zero: some would take it for octal.
    ("int", r"[-+]?(?:0|[1-9][0-9]{0,19})", list("-+0123456789")),
    ("float", r"[-+]?(?:\.[0-9]{1,40}|[0-9]{1,40}\.[0-9]{0,40}|[0-9]{1,40}(?=[eE]))(?:[eE][-+]?[0-9]{1,3})?", list("-+.0123456789")),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


def load_documents(path: Path) -> list[Any]:
    """The documents of a file that are not empty.

    Raises:
        UnreadableManifestError: It is no regular file, too large, or not such YAML.
    """
    try:
        if not path.is_file():
            raise UnreadableManifestError("is not a regular file")
        if path.stat().st_size > MAXIMUM_BYTES:
            raise UnreadableManifestError(f"is larger than {MAXIMUM_BYTES} bytes")
        text = path.read_text(encoding="utf-8")
        return [document for document in yaml.load_all(text, Loader=_Loader) if document is not None]
    except (OSError, yaml.YAMLError) as ex:
        raise UnreadableManifestError(f"cannot be read: {_short(ex)}") from ex
    except (ValueError, KeyError, AttributeError, RecursionError) as ex:
        # What PyYAML raises over wrong explicit tags and deep nesting.
        raise UnreadableManifestError(f"cannot be read: {type(ex).__name__}: {_short(ex)}") from ex


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
