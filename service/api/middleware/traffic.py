"""Traffic: each request is counted by route, method and status, and timed."""

from starlette.types import Scope

from service.api.dispatch import ROUTES
from service.metrics import request_seconds_of, requests_of

METHODS = {"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"}
OTHER = "other"  # clients do not choose how many series there are


def record(scope: Scope, method: str, status: int, seconds: float) -> None:
    """Count a request that has ended by the path of its route as declared, parameters in braces."""
    path = scope["path"]
    route = path if path in ROUTES else getattr(scope.get("route"), "path", OTHER)
    requests_of(route, method if method in METHODS else OTHER, status).inc()
    request_seconds_of(route).observe(seconds)
