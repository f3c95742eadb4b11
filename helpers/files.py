"""Files that are there whole or not at all."""

import os
import uuid
from pathlib import Path

RUNS = Path(__file__).parents[1] / "runs"
"""Where results go that are given no folder."""


def write_whole(path: Path, text: str) -> None:
    """Write the file in one step: a reader sees the old one or the new one, and never half of it."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
