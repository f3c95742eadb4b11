"""What AWS documents, one probe for each behaviour, run against any endpoint with plain boto3.

`python -m tests.conformance --help` says how to run it. A module here is an area, a function with
`@probe` in it a behaviour: its docstring is what AWS says, and it returns what it saw.
"""
