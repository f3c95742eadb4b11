"""The final state's function: counts both lanes from the Map's results, wherever they are.

Small results may come inline; with ResultWriter they lie in S3 behind a manifest.
"""

import json
from collections import Counter

import boto3


def handler(event, context):
    """Return items, failed_percentage and, per lane, the number of items by outcome."""
    results = event["results"]
    if "ResultWriterDetails" in results:
        results = list(written(results["ResultWriterDetails"]))
    outcomes = Counter((result["lane"], "failed" if "error" in result else "succeeded") for result in results)
    failed = sum(n for (_, outcome), n in outcomes.items() if outcome == "failed")
    lanes = {lane: {} for lane in ("direct", "limited")}
    for (lane, outcome), n in sorted(outcomes.items()):
        lanes[lane][outcome] = n
    print(json.dumps(lanes))
    return {
        "items": len(results),
        "failed_percentage": 100 * failed / len(results) if results else 0,
        "lanes": lanes,
    }


def written(details):
    """Read each succeeded child's output from the files that the ResultWriter's manifest names."""
    s3 = boto3.client("s3")

    def read(key):
        return json.load(s3.get_object(Bucket=details["Bucket"], Key=key)["Body"])

    manifest = read(details["Key"])
    for file in manifest["ResultFiles"]["SUCCEEDED"]:
        for execution in read(file["Key"]):
            yield json.loads(execution["Output"])
