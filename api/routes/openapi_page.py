"""The page that shows the OpenAPI document. All that it loads comes from this server: it works without the internet.

Swagger UI's files are those of the package `fastapi-offline`, which ships them as they are.
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
"""Nothing is loaded, sent or shown elsewhere, and no script runs that stands in the page."""
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
  validatorUrl: null, // else it sends the document's address elsewhere
});
"""

router = APIRouter(include_in_schema=False)
files = StaticFiles(packages=[("fastapi_offline", "static")])


@router.get(PATH)
async def page(request: Request) -> Response:
    """The OpenAPI document for people, who can try it out."""
    root = escape(request.scope.get("root_path", ""), quote=True)
    return HTMLResponse(PAGE.format(title=escape(request.app.title), root=root), headers=HEADERS)


@router.get(f"{PATH}/show.js")
async def script() -> Response:
    """Start Swagger UI. A file of its own, for the page may hold no script."""
    return Response(SHOW, media_type="text/javascript", headers=REVALIDATED)
