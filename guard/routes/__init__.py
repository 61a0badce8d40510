"""The HTTP resources, one module each. A handler parses, asks the engine or the store, and answers."""

from litestar.types import ControllerRouterHandler

from guard.routes.classify import classify
from guard.routes.health import healthz, metrics, readyz
from guard.routes.review import ReviewController

ROUTES: list[ControllerRouterHandler] = [classify, healthz, readyz, metrics, ReviewController]
