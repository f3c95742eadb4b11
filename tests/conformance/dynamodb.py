"""Tables that keep a limit, or count: conditions, sets and transactions."""

from typing import Any

from botocore.exceptions import ClientError

from tests.conformance.probe import probe
from tests.conformance.site import Site, caught, outcome

GUIDE = "https://docs.aws.amazon.com/amazondynamodb/latest/developerguide"
CONDITIONS = f"{GUIDE}/Expressions.ConditionExpressions.html"
UPDATES = f"{GUIDE}/Expressions.UpdateExpressions.html"
TRANSACTIONS = f"{GUIDE}/transaction-apis.html"
INTEGRATION = "https://docs.aws.amazon.com/step-functions/latest/dg/connect-ddb.html"
KEY = {"key": {"S": "one"}}


def update(site: Site, table: str, expression: str, **more: Any) -> str:
    """The code with which an UpdateItem is refused, or "accepted"."""
    given = {"TableName": table, "Key": KEY, "UpdateExpression": expression}
    return site.refused(site.clients["dynamodb"].update_item, **given, **more)


@probe(
    CONDITIONS,
    ["accepted", "accepted", "ConditionalCheckFailedException", "accepted", "accepted"],
    lesson=True,
)
def set_of_holders(site: Site) -> Any:
    """ADD puts a name into a set if a condition on the set's size() or on what it contains() holds, DELETE
    takes one out."""
    table = site.table()

    def acquire(name: str) -> str:
        room = "attribute_not_exists(holders) OR size(holders) < :n"
        return update(
            *(site, table, "ADD holders :me"),
            ConditionExpression=f"{room} OR contains(holders, :name)",
            ExpressionAttributeValues={":me": {"SS": [name]}, ":name": {"S": name}, ":n": {"N": "2"}},
        )

    tried = [acquire(name) for name in ("ann", "bob", "cid", "bob")]
    update(site, table, "DELETE holders :me", ExpressionAttributeValues={":me": {"SS": ["ann"]}})
    return [*tried, acquire("cid")]


@probe(INTEGRATION, {"Error": "DynamoDB.ConditionalCheckFailedException"}, lesson=True)
def condition_fails_a_state(site: Site) -> Any:
    """A state's dynamodb:updateItem whose condition does not hold fails with that error's name."""
    state = {
        "Type": "Task",
        "Resource": "arn:aws:states:::dynamodb:updateItem",
        "Parameters": {
            "TableName": site.table(),
            "Key": KEY,
            "UpdateExpression": "ADD done :one",
            "ConditionExpression": "attribute_exists(done)",
            "ExpressionAttributeValues": {":one": {"N": "1"}},
        },
        "TimeoutSeconds": 60,
        "End": True,
    }
    error = "DynamoDB.ConditionalCheckFailedException"
    ended = outcome(site.end(site.start(site.machine(caught(state, error)))))
    return {"Error": ended["Error"]} if isinstance(ended, dict) else ended


@probe(TRANSACTIONS, ["counted", ["ConditionalCheckFailed", "None"], "1"], lesson=True)
def transaction_counts_once(site: Site) -> Any:
    """TransactWriteItems does all or nothing: where its condition fails nothing is counted, and the reasons
    are told."""
    dynamodb, table = site.clients["dynamodb"], site.table()

    def count() -> Any:
        put = {"Item": {"key": {"S": "item"}}, "ConditionExpression": "attribute_not_exists(#key)"}
        put |= {"TableName": table, "ExpressionAttributeNames": {"#key": "key"}}
        add = {"UpdateExpression": "ADD done :one", "ExpressionAttributeValues": {":one": {"N": "1"}}}
        try:
            dynamodb.transact_write_items(
                TransactItems=[{"Put": put}, {"Update": {"TableName": table, "Key": KEY, **add}}]
            )
        except ClientError as error:
            return [reason["Code"] for reason in error.response["CancellationReasons"]]
        return "counted"

    first, second = count(), count()
    found = dynamodb.get_item(TableName=table, Key=KEY, ConsistentRead=True)["Item"]
    return [first, second, found["done"]["N"]]
