"""How light a colour is, for tests of what is legible."""

from collections.abc import Sequence


def luminance(colour: Sequence[float]) -> float:
    """The relative luminance (WCAG 2.2), 0 of black to 1 of white, of red, green and blue as shares of 1."""
    red, green, blue = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in colour]
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
