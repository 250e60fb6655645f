"""What happens around every request: it is counted, and browsers are told what the page may do."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from owl2_jax.serving.metrics import Metrics

# The page loads nothing from elsewhere, runs no script but its own, makes no HTML out of text, and
# stands in no other page.
_POLICY = "; ".join(
    ["default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'",
     "img-src 'self' data: blob:", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'",
     "require-trusted-types-for 'script'", "trusted-types 'none'"]
)  # fmt: skip
_HEADERS = [
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]


class CountAndProtect:
    """ASGI middleware; the body passes untouched."""

    def __init__(self, app: ASGIApp, metrics: Metrics):
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *_HEADERS]
                self._metrics.request(_path(scope), message["status"])
            await send(message)

        await self._app(scope, receive, counted)


def _path(scope: Scope) -> str:
    """The route, not what the client wrote: there must be few of them."""
    route = scope.get("route")
    return getattr(route, "path", None) or ("/page" if scope["path"].startswith("/page/") else "other")
