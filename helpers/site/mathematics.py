"""TeX's inline formulas as HTML that any browser shows: letters in italics, Greek, sub- and superscripts."""

import re
from html import escape

from helpers.errors import LabError

__all__ = ["to_html"]

COMMANDS = {
    **{name: chr(0x3B1 + at) for at, name in enumerate(["alpha", "beta", "gamma", "delta", "epsilon"])},
    **{"lambda": "λ", "mu": "μ", "rho": "ρ", "sigma": "σ", "tau": "τ", "Delta": "Δ", "Sigma": "Σ"},
    **{"cdot": "·", "times": "×", "le": "≤", "leq": "≤", "ge": "≥", "geq": "≥", "ne": "≠", "approx": "≈"},
    **{"sum": "∑", "infty": "∞", "in": "∈", "to": "→", "ldots": "…", "dots": "…", "pm": "±", "sqrt": "√"},
    **{",": "\u2009", ";": " ", " ": " ", "{": "{", "}": "}", "%": "%", "$": "$", "_": "_"},
}
TOKEN = re.compile(r"\\([A-Za-z]+|.)|([_^])|([{}])|([A-Za-z]+)|(.)", re.DOTALL)


def to_html(tex: str) -> str:
    r"""The formula, such as `L = \lambda W`, as HTML text.

    Raises LabError for a command that it does not know.
    """
    shown: list[str] = []
    closing: list[str] = []  # what each open brace ends with
    pending = ""  # the element that a sub- or superscript has opened for what follows
    for command, script, brace, letters, other in TOKEN.findall(tex):
        if script:
            pending = "sub" if script == "_" else "sup"
            shown.append(f"<{pending}>")
            continue
        if brace == "{":
            closing.append(f"</{pending}>" if pending else "")
            pending = ""
            continue
        if brace:
            shown.append(closing.pop() if closing else "")
            continue
        if command and command not in COMMANDS:
            raise LabError(
                f"formula ${tex}$: the site has no sign for \\{command}; write it otherwise, or add it to "
                "helpers/site/mathematics.py"
            )
        if letters and pending:  # a script takes one sign, the rest stands beside it
            shown.append(
                f"<i>{letters[0]}</i></{pending}>" + (f"<i>{letters[1:]}</i>" if letters[1:] else "")
            )
        else:
            sign = COMMANDS[command] if command else f"<i>{letters}</i>" if letters else escape(other)
            shown.append(("−" if sign == "-" else sign) + (f"</{pending}>" if pending else ""))
        pending = ""
    return "".join(shown) + "".join(reversed(closing))
