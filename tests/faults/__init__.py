"""What the lab survives: each fault is injected for real, and items and leftovers are counted.

`python -m tests.faults` tries them and prints the table; `tests/test_faults.py` tries each once.
"""
