"""The course as a static site: executed notebooks, tables, guides and the API, readable offline."""

from helpers.site.building import Built, alone, build
from helpers.site.links import Checked, check

__all__ = ["Built", "Checked", "alone", "build", "check"]
