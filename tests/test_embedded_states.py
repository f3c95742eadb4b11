"""The embedded engine's states and what they call do what AWS documents."""

import json

from machines import ended, machine


def test_a_state_can_write_to_s3(engine):
    """aws-sdk:s3:putObject stores a JSON Body, as an ItemReader reads it."""
    s3 = engine.client("s3")
    s3.create_bucket(Bucket="test-put-object")
    put = {
        "Type": "Task",
        "Resource": "arn:aws:states:::aws-sdk:s3:putObject",
        "Parameters": {"Bucket": "test-put-object", "Key": "items.json", "Body.$": "$.items"},
        "End": True,
    }
    described = ended(engine, machine(engine, {"Put": put}, "Put"), {"items": [{"a": 1}]})
    stored = json.load(s3.get_object(Bucket="test-put-object", Key="items.json")["Body"])
    assert described["status"] == "SUCCEEDED"
    assert stored == [{"a": 1}]
