"""Reading YAML as DVC writes it: version 1.2, where ``5e-05`` is a number and ``no`` a word."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from compositional_prompts.pipeline.section import ParameterError

CORE_SCHEMA = (
    ("null", r"null|Null|NULL|~|", "nN~"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+0123456789.",
    ),
)
"""Tags of unquoted scalars, what they match, and how they begin (YAML 1.2.2, section 10.3.2)."""


class Yaml12Loader(yaml.CSafeLoader):
    """PyYAML with the core schema of YAML 1.2; a key that stands twice is refused.

    It parses by libyaml, ten times as fast as in Python: ``dvc.lock`` has thousands of lines.
    Merge keys (``<<``) are no part of the core schema, but DVC's reader has them.
    """

    def get_single_node(self) -> yaml.Node | None:
        node: yaml.Node | None = super().get_single_node()
        _refuse_double_keys(node)
        return node

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        text = self.construct_scalar(node)
        return int(text, 0) if text.startswith(("0o", "0x")) else int(text)


Yaml12Loader.yaml_implicit_resolvers = {}  # those of 1.1 are not inherited
for _tag, _pattern, _first in CORE_SCHEMA:
    Yaml12Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}",
        re.compile(f"(?:{_pattern})\\Z"),
        [*_first, *([""] if _tag == "null" else [])],
    )
Yaml12Loader.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile(r"<<\Z"), ["<"])
Yaml12Loader.add_constructor("tag:yaml.org,2002:int", Yaml12Loader.construct_yaml_int)


def _refuse_double_keys(root: yaml.Node | None) -> None:
    left, met = [root], set()
    while left:
        node = left.pop()
        if id(node) in met:  # an alias: its mappings may be many, or lie in one another
            continue
        met.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            left += node.value
        elif isinstance(node, yaml.MappingNode):
            names = set()
            for key, value in node.value:
                name = (key.tag, str(key.value))
                if name in names:
                    reason = f"the key {key.value!r} stands twice in one mapping"
                    raise yaml.constructor.ConstructorError(None, None, reason, key.start_mark)
                names.add(name)
                left += [key, value]


def read_yaml(path: Path) -> dict[str, Any]:
    """The one mapping that a file holds.

    Raises:
        ParameterError: the file is missing, not YAML 1.2, or no mapping; one line.
    """
    if not path.is_file():
        raise ParameterError(f"{path} is missing: run from the root of the project.")
    try:
        document = yaml.load(path.read_bytes(), Yaml12Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        reason = ", ".join(filter(None, (error.context, error.problem)))
        raise ParameterError(f"{path} is not YAML: {line}{reason}.") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ParameterError(f"{path} is not YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(document, dict):
        raise ParameterError(
            f"{path} must be a mapping of names to values, found {_kind(document)}."
        )
    return document


def _kind(document: Any) -> str:
    return "nothing" if document is None else f"a {type(document).__name__}"
