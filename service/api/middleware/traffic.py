"""Traffic: counts each request by route, method and status, and records its time."""

from starlette.types import Scope

from service.api.dispatch import ROUTES
from service.metrics import request_seconds_of, requests_of

METHODS = {"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"}
OTHER = "other"  # unknown methods and routes share a series, so clients cannot create more


def record(scope: Scope, method: str, status: int, seconds: float) -> None:
    """Record a finished request under its route's path, with parameters in braces."""
    path = scope["path"]
    route = path if path in ROUTES else getattr(scope.get("route"), "path", OTHER)
    requests_of(route, method if method in METHODS else OTHER, status).inc()
    request_seconds_of(route).observe(seconds)
