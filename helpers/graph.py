"""State machines as graphs: any definition in Amazon States Language, coloured by what went through it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd

from helpers import stack
from helpers.errors import GraphError, shown
from helpers.files import write_whole
from helpers.formatting import caption, markup, plain
from helpers.observe import Observation
from helpers.trace import LANES, Trace

__all__ = ["Graph", "graph"]

SHAPES = {
    "Task": "box",
    "Choice": "diamond",
    "Pass": "note",
    "Wait": "hexagon",
    "Succeed": "ellipse",
    "Fail": "octagon",
    "Map": "folder",
    "Parallel": "box3d",
}
"""The shape of each kind of state."""
LIMITS = {"INLINE": 40, "DISTRIBUTED": 10_000}
"""At once at most, where a Map says nothing (Step Functions developer guide, 2026-11-24)."""
SIGNS = {
    "Equals": "=",
    "LessThan": "<",
    "GreaterThan": ">",
    "LessThanEquals": "≤",
    "GreaterThanEquals": "≥",
    "Matches": "matches",
}
COMPARISON = re.compile(f"(?:String|Numeric|Boolean|Timestamp)({'|'.join(SIGNS)})(?:Path)?")
PATTERNS = {"waitForTaskToken": "waits for a task token", "sync": "waits for the job to end"}
"""What a Task waits for after its call, by the integration pattern at the end of its Resource."""
RETRIES = 3
"""MaxAttempts of a Retry that does not say (Step Functions developer guide, 2026-11-24)."""
LINE = 36
"""Characters of a line at an edge, which has two at most; its title, which a browser shows, has all."""
FULL = (0x56, 0xB4, 0xE9)
"""The colour of all of the time; less of it is lighter. Black is legible on each."""
FAILED = "#B3261E"
FONT = 'fontname="Helvetica,Arial"'
CAUGHT = f' style=dashed color="{FAILED}" fontcolor="{FAILED}"'
POINT = "shape=circle fixedsize=true fillcolor=black"
DRAW = """
import sys, pygraphviz
drawn = pygraphviz.AGraph(string=sys.stdin.buffer.read().decode()).draw(format=sys.argv[1], prog="dot")
sys.stdout.buffer.write(drawn)
"""
SVG = "http://www.w3.org/2000/svg"


@dataclass(frozen=True, eq=False)
class Graph:
    """A state machine as a picture: a notebook shows it where it is the last value of a cell.

    title: what it is of. dot: the graph for Graphviz. numbers: what colours it, by state, empty for a plain
    one: entered (how many items; outside of a Map, how often), failed (of these), seconds (spent there by
    all, in s) and share (of the seconds of all states); NaN where nobody measured the time.
    titles: what each node and edge is, by its id in dot.
    """

    title: str
    dot: str
    numbers: pd.DataFrame
    titles: Mapping[str, str] = field(repr=False)

    @cached_property
    def svg(self) -> str:
        """The picture as an SVG element, with nothing in it from elsewhere. Raises GraphError as `png`."""
        root = ElementTree.fromstring(_drawn(self.dot, "svg"))
        root.attrib |= {"role": "img", "aria-label": self.title, "style": "max-width: 100%; height: auto"}
        for group in root.iter(f"{{{SVG}}}g"):
            name = group.attrib.pop("id", "")  # there may be more than one graph on a page
            if (title := group.find(f"{{{SVG}}}title")) is not None:
                title.text = plain(self.titles.get(name, ""))
        top = ElementTree.Element(f"{{{SVG}}}title")
        top.text = self.title
        root.insert(0, top)
        ElementTree.register_namespace("", SVG)
        return ElementTree.tostring(root, encoding="unicode")

    @cached_property
    def png(self) -> bytes:
        """The picture as a PNG file. Raises GraphError where Graphviz is missing or fails."""
        return _drawn(self.dot, "png")

    def save(self, path: str | Path) -> Path:
        """Write the picture as the file's ending says, .svg or .png, and return the path.

        Raises GraphError for another ending, FileError where it cannot be written.
        """
        path = Path(path)
        if path.suffix not in (".svg", ".png"):
            raise GraphError(f"{path}: a graph is written as .svg or .png; end the file's name so")
        write_whole(path, self.svg if path.suffix == ".svg" else self.png)
        return path

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        # Notebooks that are not trusted show no SVG.
        return {"image/svg+xml": self.svg, "image/png": self.png, "text/plain": self.title}


def graph(
    definition: str | Mapping[str, Any],
    machine: str = "StateMachineArn",
    coloured_by: Observation | Trace | None = None,
) -> Graph:
    """The graph of a state machine.

    definition: a workflow of infra/ by name, or a definition in Amazon States Language, parsed or as JSON
    text. machine: of a workflow, the output that names the state machine. coloured_by: what went through it;
    an Observation of any execution, or a Trace of `combined` or `distributed_map`. Then each state tells how
    many items went through and how many failed, and is the darker, the more of the items' time went there.

    Each kind of state has a shape of its own. Dashed: what happens after an error. Framed: what a Map or a
    Parallel runs, with how much of it at once.
    Raises StackError for an unknown workflow, and GraphError for what is no definition or not of this trace.
    """
    parsed, title = _definition(definition, machine)
    try:
        drawing = _Drawing(parsed)
        numbers = _numbers(coloured_by, drawing.names, title)
        if len(numbers):
            drawing = _Drawing(parsed, numbers)
    except RecursionError as error:
        raise GraphError(f"{title}: its states are nested too deeply to be drawn; nest fewer") from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise GraphError(
            f"{title}: a field is not as States Language has it ({error}); correct it"
        ) from error
    count = len(drawing.names)
    title = f"{plain(title)}: {count} state{'s' * (count != 1)}"
    if len(numbers):
        title += ", coloured by their share of the time"
    return Graph(title, drawing.dot(), numbers, drawing.titles)


def _definition(given: str | Mapping[str, Any], machine: str) -> tuple[Any, str]:
    """The parsed definition, and what to call it."""
    if not isinstance(given, str):
        return given, "State machine"
    if given.lstrip()[:1] == "{":
        try:
            return json.loads(given), "State machine"
        except (ValueError, RecursionError) as error:
            raise GraphError(f"the definition is no JSON ({error}); give what is deployed") from error
    template = stack.template(given)
    machines = {
        output: template["Resources"][name]["Properties"]
        for output, about in template["Outputs"].items()
        if (name := about["Value"].get("Ref")) in template["Resources"]
        and template["Resources"][name]["Type"] == "AWS::StepFunctions::StateMachine"
    }
    if machine not in machines:
        raise GraphError(
            f"machine={machine!r}: {given} has {', '.join(machines) or 'none'}; choose what is there"
        )
    properties = machines[machine]
    text: str = properties["DefinitionString"]
    for name, value in properties.get("DefinitionSubstitutions", {}).items():
        resource = template["Resources"].get(value.get("Ref") if isinstance(value, dict) else None, {})
        if resource.get("Type") == "AWS::StepFunctions::Activity":
            text = text.replace(f"${{{name}}}", f"arn:aws:states:::activity:{value['Ref']}")
    title = given if len(machines) == 1 else f"{given}, {machine.removesuffix('Arn')}"
    return json.loads(text), title


def _numbers(told: Observation | Trace | None, names: list[str], title: str) -> pd.DataFrame:
    """The table `Graph.numbers` for a definition whose states have these names."""
    rows: dict[str, tuple[int, int, float]] = {}
    if isinstance(told, Observation):
        for state, own in told.states.sort_values("scheduled", kind="stable").groupby("state", sort=False):
            # Outside of the children there are no items: there each first attempt counts as one.
            visit = own["item"].where(own["item"] >= 0, -(own["attempt"] == 1).cumsum())
            last = own["outcome"][~visit.duplicated(keep="last")]
            failed = int((~last.isin(["succeeded", "running"])).sum())
            rows[str(state)] = len(last), failed, float((own["ended"] - own["scheduled"]).sum())
    elif isinstance(told, Trace):
        items = told.items
        bad, seconds = items["outcome"] != "succeeded", items["returned"] - items["arrival"]
        whole = ("Process", LANES), ("Work", LANES)
        for state, lanes in (*whole, ("DirectLane", LANES[:1]), ("LimitedLane", LANES[1:])):
            here = items["lane"].isin(lanes)
            rows[state] = int(here.sum()), int((here & bad).sum()), float(seconds[here].sum())
        through = {"Arrived": len(items), "ChooseLane": len(items)}
        through |= {"Answered": int((~bad).sum()), "Unanswered": int(bad.sum())}
        rows |= {state: (count, 0, np.nan) for state, count in through.items()}
        # Each of the lab's workflows has some of these.
        rows = {state: row for state, row in rows.items() if state in names} or rows
    elif told is not None:
        raise GraphError(f"coloured_by={shown(told)}: must be an Observation or a Trace; give one of these")
    if missing := [state for state in rows if state not in names]:
        raise GraphError(
            f"{title} has no state {missing[0]!r}, of which the {type(told).__name__} tells; "
            "give the definition that was run"
        )
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["entered", "failed", "seconds"])
    return table.assign(share=table["seconds"] / table["seconds"].sum())


class _Drawing:
    """The lines of a graph in Graphviz's language, as its states are walked through."""

    def __init__(self, definition: Any, numbers: pd.DataFrame | None = None) -> None:
        self.numbers = pd.DataFrame() if numbers is None else numbers
        self.names: list[str] = []
        self.titles: dict[str, str] = {}
        self.lines: list[str] = []
        self.edges: list[str] = []
        self._node("start", "start", "", POINT + " width=0.18")
        self._node("end", "end", "", POINT + " width=0.12 peripheries=2")
        self._machine(definition, "start", "start", "end", "")

    def dot(self) -> str:
        """The whole graph."""
        about = f"compound=true bgcolor=white pad=0.15 ranksep=0.35 nodesep=0.45 {FONT}"
        about += f" fontsize=10 labelloc=b label=<{_legend()}>" * (len(self.numbers) > 0)
        return "\n".join(
            [
                f"digraph {{ graph [{about}]",
                f'node [{FONT} fontsize=11 style=filled fillcolor=white margin="0.12,0.06"]',
                f"edge [{FONT} fontsize=9 arrowsize=0.7]",
                *self.lines,
                *self.edges,
                "}",
            ]
        )

    def _machine(self, given: Any, start: str, before: str, end: str, label: str) -> None:
        """Draw states and what leads from one to the other.

        given: what has StartAt and States. start: the id of what leads to them, its name and its label; end:
        the id of what comes after them.
        """
        states = given.get("States") if isinstance(given, Mapping) else None
        if not isinstance(states, Mapping) or not states:
            raise GraphError(f"{shown(given)} has no States; give a state machine in Amazon States Language")
        ids = {name: f"s{len(self.names) + place}" for place, name in enumerate(states)}
        self.names.extend(states)
        leaves = {name: self._state(ids[name], name, state) for name, state in states.items()}
        first = given.get("StartAt")
        self._edge(start, _known(ids, first, "StartAt"), before, first, label)
        for name, state in states.items():
            out, look = leaves[name]
            for target, text, caught in _ways(name, state):
                to = end if target is None else _known(ids, target, f"state {name!r}")
                self._edge(out, to, name, target or "end", text, look + CAUGHT * caught)

    def _state(self, id: str, name: str, state: Any) -> tuple[str, str]:
        """Draw one state; return the id from which its ways go, and what else their edges need."""
        kind = state.get("Type") if isinstance(state, Mapping) else None
        if kind not in SHAPES:
            raise GraphError(f"state {name!r}: Type is {shown(kind)}; it must be one of {', '.join(SHAPES)}")
        look = f"shape={SHAPES[kind]}" + " peripheries=2" * (kind == "Succeed")
        lines = [f"<B>{_text(name, 80)}</B>", *(_small(_text(line)) for line in _about(name, state))]
        if name in self.numbers.index:
            entered, failed, seconds, share = map(float, self.numbers.loc[name])
            bad = f", <B>{failed:,.0f} failed</B>" if failed else ""
            lines.append(_small(f"{entered:,.0f} entered{bad}"))
            look += f' color="{FAILED}" penwidth=2.5' if failed else ""
            if seconds > 0:
                look += f' fillcolor="{_colour(share)}"'
                lines.append(_small(f"{100 * share:.3g} % of the time, {_seconds(seconds)}"))
        inner = _inner(name, state)
        if not inner:
            self._node(id, name, "<BR/>".join(lines), look, "state")
            return id, ""
        frame = "rounded,dashed" if kind == "Map" and not _distributed(state) else "rounded"
        self.lines.append(
            f'subgraph "cluster_{id}" {{ style="{frame}" color="#555555" bgcolor="#F6F6F6" label=""'
        )
        self._node(id, name, "<BR/>".join(lines), look, "state")
        end = f"{id}e"
        self._node(end, f"end of {name}", "", POINT + " width=0.12")
        for number, (machine, label) in enumerate(inner):
            if kind == "Parallel":
                self.lines.append(
                    f'subgraph "cluster_{id}b{number}" {{ style="rounded,dotted" bgcolor=white label=""'
                )
            self._machine(machine, id, name, end, label)
            self.lines.extend("}" * (kind == "Parallel"))
        # Where nothing leads to the end, it stays below all the same.
        self.edges.append(f'"{id}" -> "{end}" [style=invis]')
        self.lines.append("}")
        return end, f'ltail="cluster_{id}"'

    def _node(self, id: str, title: str, label: str, look: str, kind: str = "point") -> None:
        self.titles[id] = title
        label = f"<{label}>" if label else '""'
        self.lines.append(f'"{id}" [id="{id}" class="{kind}" label={label} {look}]')

    def _edge(self, start: str, end: str, source: str, target: str, text: str, look: str = "") -> None:
        id = f"e{len(self.edges)}"
        self.titles[id] = f"{source} → {target}" + f": {text}" * bool(text)
        lines = textwrap.wrap(text, LINE, max_lines=2, placeholder=" …", break_long_words=False)
        label = "<BR/>".join(f"&#160;{_text(line, 2 * LINE)}&#160;" for line in lines)
        self.edges.append(f'"{start}" -> "{end}" [id="{id}" class="transition" label=<{label}> {look}]')


def _known(ids: Mapping[str, str], target: Any, where: str) -> str:
    """The id of the state of this name."""
    if isinstance(target, str) and target in ids:
        return ids[target]
    raise GraphError(f"{where}: leads to {shown(target)}, which is no state beside it; name one that is")


def _inner(name: str, state: Mapping[str, Any]) -> list[tuple[Any, str]]:
    """What a Map or a Parallel runs, each with what leads there."""
    if state["Type"] == "Map":
        each = "each batch" if "ItemBatcher" in state else "each item"
        return [(state.get("ItemProcessor") or state.get("Iterator"), each)]
    if state["Type"] == "Parallel":
        branches = state.get("Branches")
        if not isinstance(branches, list) or not branches:
            raise GraphError(f"state {name!r}: a Parallel has a list of Branches; give it some")
        return [(branch, f"branch {number}") for number, branch in enumerate(branches, 1)]
    return []


def _ways(name: str, state: Mapping[str, Any]) -> Iterator[tuple[str | None, str, bool]]:
    """Where the state leads, None for the end, with the words of why, and whether it is after an error."""
    kind = state["Type"]
    if kind == "Choice":
        rules = state.get("Choices")
        if not isinstance(rules, list) or not rules or not all(isinstance(rule, Mapping) for rule in rules):
            raise GraphError(f"state {name!r}: a Choice has a list of Choices; give it some")
        for rule in rules:
            yield _named(name, rule), _condition(rule), False
        if "Default" in state:
            yield state["Default"], "otherwise", False
        return
    if kind == "Succeed" or state.get("End") is True:
        yield None, "", False
    elif kind != "Fail":
        yield _named(name, state), "", False
    for catcher in state.get("Catch", []):
        yield _named(name, catcher), ", ".join(map(str, catcher.get("ErrorEquals", []))), True


def _named(name: str, given: Mapping[str, Any]) -> Any:
    """The state that comes next, as text, so that None is the end alone."""
    if not isinstance(given.get("Next"), str):
        raise GraphError(f"state {name!r}: {shown(given)} has neither a Next nor an End; say what follows")
    return given["Next"]


def _condition(rule: Mapping[str, Any]) -> str:
    """A rule of a Choice in short words."""
    if "Condition" in rule:
        return _expression(rule["Condition"])
    for name, word in (("And", " and "), ("Or", " or ")):
        if isinstance(rule.get(name), list):
            return word.join(f"({text})" if " or " in (text := _condition(r)) else text for r in rule[name])
    if isinstance(rule.get("Not"), Mapping):
        return f"not ({_condition(rule['Not'])})"
    variable = _expression(rule.get("Variable"))
    for operator, value in rule.items():
        if found := COMPARISON.fullmatch(operator):
            value = _expression(value) if operator.endswith("Path") else json.dumps(value, ensure_ascii=False)
            return f"{variable} {SIGNS[found[1]]} {value}"
        if operator.startswith("Is"):
            words = re.sub("(?<!^)([A-Z])", r" \1", operator).lower()
            return f"{variable} {words if value else words.replace('is', 'is not', 1)}"
    raise GraphError(f"{shown(rule)}: a rule of a Choice compares something; give it an operator")


def _expression(value: Any) -> str:
    """A path without its $, a JSONata expression without its frame."""
    text = str(value).strip()
    if text.startswith("{%") and text.endswith("%}"):
        return text[2:-2].strip()
    return text.removeprefix("$.")


def _about(name: str, state: Mapping[str, Any]) -> Iterator[str]:
    """What a state does, in a line or two."""
    kind = state["Type"]
    if kind == "Task":
        yield from _resource(name, state.get("Resource"))
    elif kind == "Map":
        mode = "DISTRIBUTED" if _distributed(state) else "INLINE"
        config = (state.get("ItemProcessor") or {}).get("ProcessorConfig", {})
        children = f", {config.get('ExecutionType', 'STANDARD').capitalize()} children"
        yield f"{mode.capitalize()} Map{children if mode == 'DISTRIBUTED' else ''}"
        limit = state.get("MaxConcurrency") or state.get("MaxConcurrencyPath")
        yield f"at most {_expression(limit) if limit else f'{LIMITS[mode]:,}'} at once" + (
            "" if limit else ", AWS's own limit"
        )
        batch = state.get("ItemBatcher", {})
        if most := batch.get("MaxItemsPerBatch") or batch.get("MaxItemsPerBatchPath"):
            yield f"in batches of {_expression(most)} items"
    elif kind == "Parallel":
        branches = state.get("Branches")
        yield f"Parallel, {len(branches) if isinstance(branches, list) else 0} branches at once"
    elif kind == "Wait":
        for key in ("Seconds", "SecondsPath", "Timestamp", "TimestampPath"):
            if key in state:
                when = _expression(state[key])
                yield f"Wait {when} s" if key.startswith("Seconds") else f"Wait until {when}"
    elif kind == "Fail":
        yield f"Fail {_expression(state.get('Error') or state.get('ErrorPath') or '')}".strip()
    else:
        yield kind
    for retrier in state.get("Retry", []):
        if times := retrier.get("MaxAttempts", RETRIES):
            first, *others = retrier["ErrorEquals"]
            errors = ", ".join([first, *others])
            told = f"{first}, …" if others and len(errors) > LINE else errors
            yield f"again after {told}, {times:,} times"


def _distributed(state: Mapping[str, Any]) -> bool:
    processor = state.get("ItemProcessor")
    config = processor.get("ProcessorConfig", {}) if isinstance(processor, Mapping) else {}
    return bool(config.get("Mode") == "DISTRIBUTED")


def _resource(name: str, resource: Any) -> Iterator[str]:
    if not isinstance(resource, str):
        raise GraphError(f"state {name!r}: its Resource is {shown(resource)}; a Task names what it calls")
    service, _, pattern = resource.partition(":states:::")[2].partition(".")
    if ":activity:" in resource:
        yield f"Task, activity {resource.rpartition(':')[2]}"
        yield "waits for a worker to take it and answer"
    elif service:
        yield f"Task, {service.removeprefix('aws-sdk:')}"
        if pattern:
            yield PATTERNS.get(pattern.partition(":")[0], pattern)
    else:
        yield f"Task, {resource.partition(':function:')[2] or resource}"


def _text(given: str, longest: int = 200) -> str:
    """Escape text for a label of Graphviz's that looks like HTML; blank text, which it refuses, is a dot."""
    return markup(caption(" ".join(given.split()), longest) or "·").replace("\\", "\\\\")


def _small(label: str) -> str:
    return f'<FONT POINT-SIZE="9">{label}</FONT>'


def _seconds(seconds: float) -> str:
    return f"{seconds:,.0f} s" if seconds >= 100 else f"{seconds:.3g} s"


def _colour(share: float) -> str:
    return "#" + "".join(f"{round(255 - share * (255 - full)):02X}" for full in FULL)


def _legend() -> str:
    """What the colours mean."""
    shares = (0, 0.25, 0.5, 0.75, 1)
    cells = "".join(f'<TD BGCOLOR="{_colour(share)}">{100 * share:.0f} %</TD>' for share in shares)
    return (
        '<TABLE BORDER="0" CELLBORDER="1" CELLSPACING="0" CELLPADDING="4"><TR>'
        f'<TD BORDER="0">share of the time </TD>{cells}'
        f'<TD BORDER="0">  <FONT COLOR="{FAILED}">thick frame: items failed there</FONT></TD>'
        "</TR></TABLE>"
    )


def _drawn(dot: str, form: str) -> bytes:
    """What Graphviz makes of it; in a process of its own, whose end would not be that of a notebook."""
    command = [sys.executable, "-P", "-c", DRAW, form]
    ran = subprocess.run(command, input=dot.encode(), capture_output=True, check=False)
    if ran.returncode == 0:
        return ran.stdout
    said = ran.stderr.decode(errors="replace").strip().splitlines()[-1:]
    raise GraphError(
        f"Graphviz could not draw it ({''.join(said) or f'exit {ran.returncode}'}); install pygraphviz, "
        "whose wheels bring Graphviz along; on a platform without a wheel, Graphviz with its headers first"
    )
