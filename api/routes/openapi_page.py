"""The page that shows the OpenAPI document. It loads files from this server only, so it works offline.

Swagger UI's files are those of the package `fastapi-offline`.
"""

from html import escape
from typing import Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

PATH: Final = "/docs"
FILES: Final = "/docs-files"
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
    " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Nothing is loaded from, sent to or framed by other hosts, and no inline script runs."""
HEADERS: Final = {"content-security-policy": POLICY, "referrer-policy": "no-referrer"}
REVALIDATED: Final = {"cache-control": "no-cache"}
PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="{root}/docs-files/favicon.png">
<link rel="stylesheet" href="{root}/docs-files/swagger-ui.css">
</head>
<body>
<div id="document" data-url="{root}/openapi.json"></div>
<script src="{root}/docs-files/swagger-ui-bundle.js"></script>
<script src="{root}/docs/show.js"></script>
</body>
</html>
"""
SHOW: Final = """const place = document.getElementById("document");
SwaggerUIBundle({
  url: place.dataset.url,
  domNode: place,
  deepLinking: true,
  validatorUrl: null, // else it sends the document's address to another host
});
"""

router = APIRouter(include_in_schema=False)
files = StaticFiles(packages=[("fastapi_offline", "static")])


@router.get(PATH)
async def page(request: Request) -> Response:
    """Show the OpenAPI document."""
    root = escape(request.scope.get("root_path", ""), quote=True)
    return HTMLResponse(PAGE.format(title=escape(request.app.title), root=root), headers=HEADERS)


@router.get(f"{PATH}/show.js")
async def script() -> Response:
    """Start Swagger UI. It is a file of its own, as the page may not have inline scripts."""
    return Response(SHOW, media_type="text/javascript", headers=REVALIDATED)
