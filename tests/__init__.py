"""A package, since Ciw brings one of this name, which would hide a mere folder from `python -m tests.…`."""
