"""`.venv/bin/python -m helpers.patterns`: measure all patterns anew, for the table and the figure in docs/.

What docs/patterns.md says around the table is written by hand, and has no numbers of its own.
"""

import re
from pathlib import Path

from helpers.engines import connect
from helpers.errors import LabError
from helpers.experiment import Experiment
from helpers.files import write_whole
from helpers.patterns import comparison, registry, showing

PAGE = Path(__file__).parents[2] / "docs" / "patterns.md"
FIGURE = PAGE.parent / "figures" / "patterns.png"
MADE = re.compile(r"(<!-- made -->\n).*(<!-- end -->)", re.DOTALL)
"""Where the table stands in the page."""
MEASURED = Experiment(60, siphon_share=1.0, limited_seconds=1.0, worker_concurrency=10)
REPETITIONS = 3


def main() -> None:
    """Measure on an embedded engine, and put table and figure into their places."""
    page = PAGE.read_text()
    if not MADE.search(page):
        raise LabError(f"{PAGE}: has no place for the table; put <!-- made --> and <!-- end --> around it")
    with connect("embedded") as engine:
        found = comparison.compare(engine, registry.named([]), MEASURED, REPETITIONS)
    table = showing.markdown(found)
    write_whole(PAGE, MADE.sub(lambda place: f"{place[1]}{table}\n{place[2]}", page))
    showing.figure(found).savefig(FIGURE, dpi=110)


if __name__ == "__main__":
    main()
