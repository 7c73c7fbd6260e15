"""Access: a request brings a key that is good for what it asks, or is refused unread."""

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.problems import answer
from service.errors import CallerError, Forbidden, Unauthenticated
from service.keys import Keys, Permission

# What asks for these has no key, and learns nothing but whether it may send requests.
HEALTH = frozenset(("/", "/livez", "/readyz", "/v2/health/live", "/v2/health/ready"))


class Authentication:
    """ASGI middleware: keys, for all but health."""

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        needed = _permission(scope["path"]) if scope["type"] == "http" else None
        if needed:
            try:
                scope["state"]["key"] = self._check(Headers(scope=scope), needed)
            except CallerError as error:
                await answer(Request(scope), error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check(self, headers: Headers, needed: Permission) -> str:
        """The name of the key.

        Raises:
            Unauthenticated: there is none, or none that is known.
            Forbidden: it is not good for what is needed.
        """
        given = [*_bearer_keys(headers), *headers.getlist("x-api-key")]
        if not any(given):
            raise Unauthenticated("send a key: Authorization: Bearer KEY, or X-API-Key: KEY")
        known = [key for key in (self._keys.find(each.strip()) for each in given) if key]
        if not known:
            raise Unauthenticated("the key is not known here")
        key = next((key for key in known if needed in key.scopes), known[0])
        if needed not in key.scopes:
            has = ", ".join(sorted(key.scopes))
            raise Forbidden(f"this wants a key with scope {needed}; {key.name} has: {has}")
        return key.name


def _bearer_keys(headers: Headers) -> list[str]:
    """Those of `Authorization`; one of another scheme is for a proxy, and no obstacle."""
    given = (value.split(maxsplit=1) for value in headers.getlist("authorization"))
    return [words[1] for words in given if len(words) == 2 and words[0].lower() == "bearer"]


def _permission(path: str) -> Permission | None:
    """The scope that a key must have; None for health, which anybody may ask."""
    if path in HEALTH:
        return None
    if path == "/metrics":
        return "metrics"
    return "admin" if path.startswith("/v2/repository") else "infer"
