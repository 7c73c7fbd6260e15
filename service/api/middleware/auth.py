"""Authentication: refuses requests without a valid key before their body is read."""

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.problems import answer
from service.errors import CallerError, Forbidden, Unauthenticated
from service.keys import Keys, Permission

# Load balancers have no key. These paths tell only whether the service is ready.
HEALTH = frozenset(("/", "/livez", "/readyz", "/v2/health/live", "/v2/health/ready"))


class Authentication:
    """ASGI middleware: checks the key of every request, except for the health paths."""

    def __init__(self, app: ASGIApp, keys: Keys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        needed = _required_scope(scope["path"]) if scope["type"] == "http" else None
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
            Unauthenticated: the key is missing or unknown.
            Forbidden: the key lacks the scope.
        """
        given = [*_bearer_keys(headers), *headers.getlist("x-api-key")]
        if not any(given):
            raise Unauthenticated("no key; send Authorization: Bearer KEY, or X-API-Key: KEY")
        known = [key for key in (self._keys.find(each.strip()) for each in given) if key]
        if not known:
            raise Unauthenticated("unknown key")
        key = next((key for key in known if needed in key.scopes), known[0])
        if needed not in key.scopes:
            has = ", ".join(sorted(key.scopes))
            raise Forbidden(f"this needs a key with scope {needed}; {key.name} has {has}")
        return key.name


def _bearer_keys(headers: Headers) -> list[str]:
    """The keys in `Authorization` headers. Other schemes are meant for proxies and ignored."""
    given = (value.split(maxsplit=1) for value in headers.getlist("authorization"))
    return [words[1] for words in given if len(words) == 2 and words[0].lower() == "bearer"]


def _required_scope(path: str) -> Permission | None:
    if path in HEALTH:
        return None
    if path == "/metrics":
        return "metrics"
    return "admin" if path.startswith("/v2/repository") else "infer"
