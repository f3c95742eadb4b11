"""How the outcome of an exercise is shown: a sentence that reads on light and dark pages, and a record."""

# mypy: allow-untyped-calls
# (IPython's display carries no annotations)

from helpers.console import say
from helpers.formatting import markup, plain

__all__ = ["EXERCISE", "UNATTENDED", "page", "show"]

EXERCISE = "application/vnd.concurrency-lab.exercise+json"
"""The media type of what an executed notebook keeps of a check: {"name", "state"}; LOOKS has the states."""
UNATTENDED = "LAB_UNATTENDED"
"""The environment variable of a kernel at which nobody sits: it displays pages, not widgets."""

LOOKS = {  # state: (sign, words, colour that is legible on light and on dark)
    "unanswered": ("○", "not answered yet", "#7f7f7f"),
    "wrong": ("△", "not yet", "#c77700"),
    "right": ("✓", "right", "#00936b"),
}


def page(state: str, title: str, sentence: str, folded: bool = False) -> str:
    """The outcome as HTML; `title` and `sentence` are text, the latter hidden until a click if `folded`."""
    sign, words, colour = LOOKS[state]
    style = f"border-left: .3em solid {colour}; padding: .3em .8em; max-width: 60em; white-space: pre-line"
    head = f'<b><span style="color: {colour}">{sign}</span> {markup(title)}: {words}.</b>'
    text = markup(sentence, keep="\n")
    if folded:
        return f'<details style="{style}"><summary>{head}</summary>{text}</details>'
    return f'<div style="{style}">{head} {text}</div>'


def show(name: str, title: str, state: str, sentence: str, folded: bool = False) -> None:
    """Display the outcome of the exercise and keep {"name", "state"}; print it where there is no notebook."""
    from IPython.core.getipython import get_ipython
    from IPython.display import display

    sign, words, _ = LOOKS[state]
    text = plain(f"{sign} {title}: {words}. {sentence}", keep="\n")
    if get_ipython() is None:
        for line in text.split("\n"):
            say(line)
        return
    shown = {"text/plain": text, "text/html": page(state, title, sentence, folded)}
    display({**shown, EXERCISE: {"name": name, "state": state}}, raw=True)
