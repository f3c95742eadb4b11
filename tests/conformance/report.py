"""The columns in helpers/engines/behaviours.json, and docs/engines.md, which is made from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from helpers.engines import behaviours
from tests.conformance.probe import AREAS, Result, all_probes, plain

PAGE = Path(__file__).parents[2] / "docs" / "engines.md"
COLUMNS = {
    "embedded": "embedded",
    "ministack": "ministack as it comes",
    "localstack": "LocalStack",
    "moto": "moto",
    "aws": "AWS",
}
HEADINGS = {
    "sqs": "SQS",
    "functions": "Lambda functions",
    "mapping": "Event source mapping",
    "executions": "State machines and executions",
    "callbacks": "Callbacks",
    "inline_map": "Inline Map and Parallel",
    "distributed_map": "Distributed Map",
    "histories": "Histories",
    "limits": "Limits",
    "dynamodb": "DynamoDB",
    "eventbridge": "EventBridge",
    "cloudformation": "CloudFormation",
}
INTRODUCTION = """\
# What each engine does of what AWS documents

Made by `.venv/bin/python -m tests.conformance --write` from `tests/conformance/`: change the probes instead.

One probe a behaviour, with plain boto3 against the engine's endpoint. **yes**: as AWS documents; **no**: not;
*absent*: the API or the feature is not there; -: not run. What was seen in place of a yes stands below each
table. A lesson or a workflow relies on the behaviours in bold. AWS's column is what AWS documents: nothing
was run there, unless it has a date.
"""
HOW = """\
## How to run it

```sh
.venv/bin/python -m tests.conformance                            # the embedded engine, which it starts
.venv/bin/python -m tests.conformance --only 'callbacks.*'       # a part
.venv/bin/python -m tests.conformance --write                    # store the column, regenerate this page
.venv/bin/python -m tests.conformance --engine localstack              # the one that is kept or found
.venv/bin/python -m tests.conformance --engine moto --endpoint http://127.0.0.1:5000 --release 5.2.5 --write
.venv/bin/python -m tests.conformance --engine aws               # the default credentials; asks first
```

Each probe makes its own resources, named `conformance-...` and tagged `project: concurrency-lab`, and deletes
them. A probe that raises or does not end is a row, and the others go on.
"""


def store(engine: str, release: str, date: str, results: dict[str, Result]) -> None:
    """Replace an engine's column, and make the page anew."""
    table = behaviours.table() if behaviours.FILE.exists() else {"engines": {}}
    column = {
        "release": release,
        "date": date,
        "results": {
            probe.name: {"state": results[probe.name].state, "seen": results[probe.name].seen}
            for probe in all_probes()
        },
    }
    engines = {**table["engines"], engine: column}
    table = {
        "behaviours": documented(),
        "engines": {name: engines[name] for name in COLUMNS if name in engines},
    }
    behaviours.FILE.write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n")
    PAGE.write_text(page(table))


def documented() -> dict[str, Any]:
    """What AWS says, by behaviour."""
    return {
        p.name: {"aws": p.aws, "page": p.page, "expects": plain(p.expects), "lesson": p.lesson}
        for p in all_probes()
    }


def page(table: dict[str, Any]) -> str:
    """docs/engines.md."""
    engines = table["engines"]
    parts = [INTRODUCTION, "\n".join(totals(table)) + "\n"]
    for area in AREAS:
        names = [name for name in table["behaviours"] if name.partition(".")[0] == area]
        rows = [
            "| behaviour | AWS says | " + " | ".join(COLUMNS.values()) + " |",
            "|---" * (len(COLUMNS) + 2) + "|",
        ]
        notes = []
        for name in names:
            told = table["behaviours"][name]
            short = f"**{name}**" if told["lesson"] else name
            cells = [cell(engines, engine, name) for engine in COLUMNS]
            rows.append(f"| {short} | [{escaped(told['aws'])}]({told['page']}) | " + " | ".join(cells) + " |")
            seen = [
                f"{COLUMNS[engine]} `{engines[engine]['results'][name]['seen'].replace('`', chr(39))}`"
                for engine in engines
                if engines[engine]["results"].get(name, {}).get("state") == "no"
            ]
            if seen:
                notes.append(f"- {name}: documented `{told['expects']}`; " + ", ".join(seen))
        parts.append(f"## {HEADINGS[area]}\n\n" + "\n".join(rows) + "\n")
        if notes:
            parts.append("Seen instead:\n\n" + "\n".join(notes) + "\n")
    return "\n".join([*parts, HOW])


def totals(table: dict[str, Any]) -> list[str]:
    """The table of columns: release, date, and how many behaviours have each state."""
    rows = ["| column | release | date | yes | no | absent | of those a lesson relies on |", "|---" * 7 + "|"]
    relied = [name for name, told in table["behaviours"].items() if told["lesson"]]
    for engine, title in COLUMNS.items():
        column = table["engines"].get(engine)
        if not column:
            words = "documented, not run" if engine == "aws" else "not run"
            rows.append(f"| {title} | {words} | - | - | - | - | - |")
            continue
        states = [column["results"].get(name, {}).get("state") for name in table["behaviours"]]
        counts = " | ".join(str(states.count(state)) for state in ("yes", "no", "absent"))
        shown = sum(column["results"].get(name, {}).get("state") == "yes" for name in relied)
        rows.append(
            f"| {title} | {column['release']} | {column['date']} | {counts} | {shown} of {len(relied)} |"
        )
    return rows


def cell(engines: dict[str, Any], engine: str, name: str) -> str:
    """One engine's word on one behaviour."""
    if engine == "aws" and engine not in engines:
        return "documented"
    state = engines.get(engine, {"results": {}})["results"].get(name, {}).get("state", "-")
    return {"no": "**no**", "absent": "*absent*"}.get(state, state)


def escaped(text: str) -> str:
    """Text that may stand in a cell of a table."""
    return text.replace("|", "\\|").replace("[", "\\[").replace("]", "\\]").replace("*", "\\*")
