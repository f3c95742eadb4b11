"""What a measurement on LocalStack needs: early answers, starts of children, logs, quick deployments.

Written for the release in infra/localstack-requirements.txt. In Docker, LocalStack runs this file as one of
its init scripts: infra/compose.yaml puts it into start.d. Without Docker, __main__.py runs it.
"""

from datetime import UTC, datetime
from functools import partialmethod, wraps
from typing import Any

from localstack.services.cloudformation.resource_provider import ResourceProviderExecutor
from localstack.services.lambda_.invocation.execution_environment import ExecutionEnvironment
from localstack.services.stepfunctions.asl.component.state.state_execution.state_map.iteration.itemprocessor import (  # noqa: E501
    distributed_item_processor_worker as worker,
)
from localstack.services.stepfunctions.asl.eval.callback.callback import CallbackEndpoint

set_up = CallbackEndpoint.setup_heartbeat_endpoint
eval_job = worker.DistributedItemProcessorWorker._eval_job


@wraps(set_up)
def hear_early_answers(self: Any, heartbeat_seconds: int) -> Any:
    """Let a task with a heartbeat hear an answer that came before it began to listen.

    It begins once the message is sent, and then waits for a sign of life before it looks for an answer: one
    that a quick worker has given by then would be heard after the heartbeat's timeout, as too late.
    """
    endpoint = set_up(self, heartbeat_seconds)
    if self.get_outcome():
        endpoint.notify()
    return endpoint


@wraps(eval_job)
def start_children(self: Any, env: Any, job: Any) -> None:
    """Give a child of a Distributed Map a StartTime of its own; it would be its parent's."""
    context = env.states.context_object.context_object_data
    context["Execution"] = context["Execution"] | {"StartTime": datetime.now(UTC).isoformat()}
    eval_job(self, env, job)


def log_group(self: Any) -> str:
    """The log group that a function's LoggingConfig names; it would be one that no stack owns."""
    return str(self.function_version.config.logging_config["LogGroup"])


CallbackEndpoint.setup_heartbeat_endpoint = hear_early_answers
worker.DistributedItemProcessorWorker._eval_job = start_children
ExecutionEnvironment.get_log_group_name = log_group
# CloudFormation would look only every five seconds whether a function is there.
ResourceProviderExecutor.deploy_loop = partialmethod(ResourceProviderExecutor.deploy_loop, sleep_time=0.2)
