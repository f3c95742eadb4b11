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
SCRIPTS = {"_": "sub", "^": "sup"}
TOKEN = re.compile(r"\\(?:[A-Za-z]+|.)|[A-Za-z]+|.", re.DOTALL)


def to_html(tex: str) -> str:
    r"""The formula, such as `L = \lambda W`, as HTML text.

    Raises LabError for a command that it does not know, and for braces and scripts that are left open.
    """
    tokens = TOKEN.findall(tex)[::-1]  # the next one is the last
    shown = _several(tokens, tex)
    if tokens:
        raise _open(tex)
    return shown


def _several(tokens: list[str], tex: str) -> str:
    """What stands before the next brace that closes, or the end."""
    shown = []
    while tokens and tokens[-1] != "}":
        shown.append(_one(tokens, tex))
    return "".join(shown)


def _one(tokens: list[str], tex: str) -> str:
    """The next sign, or group in braces, with the script that it may be."""
    token = tokens.pop()
    if token == "{":
        shown = _several(tokens, tex)
        if not tokens:
            raise _open(tex)
        tokens.pop()
        return shown
    if element := SCRIPTS.get(token):
        if not tokens or tokens[-1] in {*SCRIPTS, "}"}:
            raise _open(tex)
        if tokens[-1].isalpha():  # of several letters it takes the first
            tokens[-1:] = tokens[-1][::-1]
        return f"<{element}>{_one(tokens, tex)}</{element}>"
    if token.startswith("\\"):
        if token[1:] not in COMMANDS:
            raise LabError(
                f"formula ${tex}$: the site has no sign for {token}; write it otherwise, or add it to "
                "helpers/site/mathematics.py"
            )
        return escape(COMMANDS[token[1:]])
    return f"<i>{token}</i>" if token.isalpha() else "−" if token == "-" else escape(token)


def _open(tex: str) -> LabError:
    return LabError(f"formula ${tex}$: a brace or a script is left open; close each brace, give each script")
