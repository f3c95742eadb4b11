"""How large a pattern is: the lines of template, definition and code that somebody has to write and read."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from helpers import fleet, stack
from helpers.patterns.pattern import Pattern

PROGRAMS: dict[str, tuple[Path, ...]] = {"activity": (fleet.HANDLER, fleet.PROGRAM)}
"""What runs beside a pattern's stack: somebody has to write it, too."""
_POINT_BACK = {
    "AWS::IAM::Policy",
    "AWS::Lambda::EventSourceMapping",
    "AWS::Pipes::Pipe",
    "AWS::S3::BucketPolicy",
    "AWS::SQS::QueuePolicy",
}
"""What belongs to the resources that it names, though they do not name it."""


def lines(pattern: Pattern) -> dict[str, int]:
    """Lines of `template` (resources and parameters that the pattern needs), `definition` and `functions`.

    Neither blank lines count nor comments: in Python docstrings, in the States Language Comment fields. A
    statement of Python is as many lines as `ast.unparse` makes of it. Programs beside the stack count, too.
    """
    folder = stack.INFRA / pattern.workflow
    path = folder / "template.yaml"
    written = stack.written(pattern.workflow)
    needed = _needed(written, pattern.machine)
    template = path.read_text().splitlines()
    counted = {"template": 0, "definition": 0, "functions": 0}
    counted["functions"] += sum(_of_code(program) for program in PROGRAMS.get(pattern.name, ()))
    for name, first, last in _spans(path):
        if name in needed:
            counted["template"] += sum(bool(re.match(r"\s*[^\s#]", line)) for line in template[first:last])
    for name in needed & written["Resources"].keys():
        properties = written["Resources"][name].get("Properties", {})
        if "DefinitionS3Location" in properties:
            counted["definition"] += _of_definition(folder / properties["DefinitionS3Location"])
        if written["Resources"][name]["Type"] == "AWS::Lambda::Function":
            counted["functions"] += _of_code(folder / properties["Code"] / "index.py")
    return counted


def _needed(template: dict[str, Any], machine: str) -> set[str]:
    """The logical ids of what the machine (the output that names it) needs, itself and parameters included.

    All of a template without such an output.
    """
    resources = template["Resources"]
    if machine not in template["Outputs"]:
        return set(resources) | set(template["Parameters"])
    named = {name: set(_named(resource)) for name, resource in resources.items()}
    needed: set[str] = set()
    ahead = set(_named(template["Outputs"][machine]["Value"]))
    while ahead:
        needed |= ahead
        forth = {other for name in ahead for other in named.get(name, ())}
        back = {
            name
            for name, resource in resources.items()
            if resource["Type"] in _POINT_BACK and named[name] & (needed & resources.keys())
        }
        ahead = (forth | back) - needed
    return needed


def _named(value: Any) -> Iterator[str]:
    """The logical ids that a part of a template refers to."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in ("Ref", "Condition") and isinstance(inner, str):
                yield inner
            elif key == "Fn::GetAtt":
                yield inner[0]
            elif key == "Fn::Sub":
                text, *more = inner if isinstance(inner, list) else [inner]
                yield from re.findall(r"\$\{(\w+)(?:\.\w+)?\}", text)
                yield from _named(more)
            else:
                yield from _named(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _named(inner)


def _spans(path: Path) -> Iterator[tuple[str, int, int]]:
    """Each parameter and resource of a template: its logical id, its first line, and the line after it."""
    node = yaml.compose(path.read_text(), yaml.SafeLoader)
    assert node
    for section, body in node.value:
        if section.value in ("Parameters", "Resources"):
            for key, value in body.value:
                yield key.value, key.start_mark.line, value.end_mark.line


def _of_definition(path: Path) -> int:
    text = json.dumps(json.loads(path.read_text()), indent=2)
    return sum(not line.lstrip().startswith('"Comment"') for line in text.splitlines())


def _of_code(path: Path) -> int:
    """The lines of a Python file that hold code."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef)
            and ast.get_docstring(node) is not None
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return sum(bool(line.strip()) for line in ast.unparse(tree).splitlines())
