"""The parts of the command line; helpers/cli.py puts them together."""
