"""A response to a request whose body is not read: its sender may not see it, if the connection ends at once.

What arrives at a closed connection is answered by a reset, which can cost the sender the response (RFC 9112, section
9.6). So what still comes is thrown away for a while.
"""

import asyncio
import contextlib

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

LARGE_REST_BYTES = 2**16
"""Up to here the rest of a body is thrown away by uvicorn, and the connection goes on."""
LINGER_S = 2.0


class LingeringResponse(Response):
    """A response that is sent at once; then the rest of the request is thrown away, until its sender has gone."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends it."""
        del scope  # it has no other say in it
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                more = True
                while more:
                    message = await receive()
                    more = message["type"] == "http.request" and message.get("more_body", False)
        await send({"type": "http.response.body", "body": b"", "more_body": False})
