"""Tags: what carries one is found by it, as AWS's Resource Groups Tagging API finds it.

ministack looks in some services only. `./lab destroy --all` must find every kind of resource that a template
of the lab's makes.
"""

from collections.abc import Callable, Iterator
from typing import Any

Found = Iterator[tuple[str, list[dict[str, str]]]]
"""ARNs, each with the tags of its resource."""


def found_by_tag(tagging: Any, logs: Any, sfn: Any, pipes: Any, lambda_svc: Any) -> dict[str, Any]:
    """Return the collectors of the services that ministack leaves out, and of mappings beside functions."""
    functions: Callable[[], Found] = tagging._collect_lambda
    flat = tagging._normalise_flat

    def of_lambda() -> Found:
        yield from functions()
        for uuid, mapping in lambda_svc._esms.items():
            yield lambda_svc._esm_arn(uuid), flat(mapping.get("Tags"))

    def of_logs() -> Found:
        for group in logs._log_groups.values():
            yield group["arn"].removesuffix(":*"), flat(group.get("tags"))

    def of_states() -> Found:
        for arn, tags in sfn._tags.items():
            yield arn, [{"Key": tag["key"], "Value": tag["value"]} for tag in tags]

    def of_pipes() -> Found:
        for pipe in pipes._pipes.values():
            yield pipe["Arn"], flat(pipe["Tags"])

    return {"lambda": of_lambda, "logs": of_logs, "pipes": of_pipes, "states": of_states}


def correct() -> None:
    """Put these corrections in place in ministack."""
    from ministack.services import cloudwatch_logs, lambda_svc, pipes, stepfunctions, tagging

    tagging._COLLECTORS |= found_by_tag(tagging, cloudwatch_logs, stepfunctions, pipes, lambda_svc)
