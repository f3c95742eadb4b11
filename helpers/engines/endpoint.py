"""An endpoint of the user's own: whatever speaks AWS's API at a URL."""

from __future__ import annotations

from helpers.engines import answering, local, machine
from helpers.engines.guard import Credentials
from helpers.errors import EngineError


class Endpoint(local.Local):
    """A compatible emulator at the URL that is given or in AWS_ENDPOINT_URL.

    It is called with dummy credentials, unless it is an engine of the lab's.
    """

    name = "endpoint"
    environment = machine.LOCALSTACK_ENVIRONMENT
    health = "/"
    remedy = "look whether it runs there"

    @classmethod
    def answers_at(cls, endpoint_url: str, credentials: Credentials | None = None) -> bool:
        """Whether anything answers in HTTP, with whatever status."""
        try:
            answering.ask(endpoint_url)
        except EngineError:
            return False
        return True

    def flags(self) -> str:
        """The options of `./lab` that name this endpoint."""
        return f"--endpoint {self.endpoint_url}"

    def _fall_back(self) -> str:
        raise EngineError(
            "endpoint: no URL is given; add --endpoint http://HOST:PORT, or set AWS_ENDPOINT_URL"
        )
