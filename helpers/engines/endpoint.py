"""An endpoint of the user's own: whatever speaks AWS's API at a URL."""

from __future__ import annotations

import urllib.error

from helpers.engines import local
from helpers.engines.guard import Credentials
from helpers.errors import EngineError


class Endpoint(local.Local):
    """A compatible emulator at the URL that is given or in AWS_ENDPOINT_URL.

    It is called with dummy credentials, unless it is an engine of the lab's.
    """

    name = "endpoint"
    remedy = "look whether it runs there"

    @classmethod
    def answers_at(cls, endpoint_url: str, credentials: Credentials | None = None) -> bool:
        """Whether anything answers in HTTP, with whatever status."""
        try:
            local.DIRECT.open(endpoint_url, timeout=5).close()
        except urllib.error.HTTPError:
            return True
        except (urllib.error.URLError, OSError, ValueError):
            return False
        return True

    def flags(self) -> str:
        """The options of `./lab` that name this endpoint."""
        return f"--endpoint {self.endpoint_url}"

    def _fall_back(self) -> str:
        raise EngineError(
            "endpoint: no URL is given; add --endpoint http://HOST:PORT, or set AWS_ENDPOINT_URL"
        )
