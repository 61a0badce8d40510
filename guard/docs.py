"""The OpenAPI page at `/docs`: Swagger UI from our own files, no script of anybody else's, none inline."""

from pathlib import Path
from typing import Any, Final

from litestar import Request
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import OpenAPIRenderPlugin
from litestar.static_files import create_static_files_router

FOLDER: Final = Path(__file__).parent / "static"

_PAGE: Final = b"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Lifeguard</title>
<link rel="stylesheet" href="/static/swagger-ui/swagger-ui.css">
</head>
<body>
<main id="docs"></main>
<script src="/static/swagger-ui/swagger-ui-bundle.js"></script>
<script src="/static/docs.js"></script>
</body>
</html>
"""


class SwaggerPage(OpenAPIRenderPlugin):
    """Renders the page; the schema is fetched by it from `/docs/openapi.json`."""

    def __init__(self) -> None:
        super().__init__(path="/")

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:  # noqa: ARG002
        """Return the page."""
        return _PAGE


OPENAPI: Final = OpenAPIConfig(
    title="Lifeguard",
    version="1",
    path="/docs",
    render_plugins=[SwaggerPage()],
    use_handler_docstrings=True,
)

static_files = create_static_files_router(path="/static", directories=[FOLDER], include_in_schema=False)
