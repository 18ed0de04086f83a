"""Headers forbid browsers and proxies to cache an answer or to guess another content type."""

import re
import shutil
import subprocess

import pytest

from tests.api.connections import RawConnection, head
from tests.api.world import MODEL, FakeWorker, Server, Tenant

DIRECTIVES = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self' data:",
    "connect-src": "'self'",
    "base-uri": "'none'",
    "form-action": "'none'",
    "frame-ancestors": "'none'",
}
CHROMIUM = shutil.which("chromium")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/responses", 200),
        ("GET", "/v1/responses/{}", 200),
        ("GET", "/v1/responses/{}?wait=0.01", 200),
        ("GET", "/v1/responses/{}/input_items", 200),
        ("GET", "/v1/responses/resp_none", 404),
        ("GET", "/v1/models", 200),
        ("GET", "/v1/usage", 200),
        ("GET", "/nothing", 404),
        ("PUT", "/v1/responses", 405),
        ("POST", "/v1/responses", 400),
        ("POST", "/v1/responses/{}/cancel", 200),
        ("DELETE", "/v1/responses/{}", 200),
        ("GET", "/healthz", 200),
        ("GET", "/metrics", 200),
        ("GET", "/openapi.json", 200),
        ("GET", "/docs", 200),
    ],
)
def test_no_answer_may_be_cached_or_sniffed(tenant: Tenant, method: str, path: str, status: int) -> None:
    answer = tenant.http.request(method, path.format(tenant.submit()["id"]))
    assert answer.status_code == status
    assert answer.headers.get_list("x-content-type-options") == ["nosniff"]
    assert answer.headers.get_list("cache-control") == ["no-store"]


def test_answers_without_a_key_may_not_be_cached_or_sniffed(server: Server, tenant: Tenant) -> None:
    with RawConnection(server) as connection:
        answers = [connection.send(head("GET", "/v1/models")).answer(), connection.send(b"nonsense\r\n\r\n").answer()]
    assert [each.status for each in answers] == [401, 400]
    socket_asked = tenant.http.get("/v1/responses", headers={"sec-websocket-key": "x"})
    assert socket_asked.status_code == 426
    for headers in (*(each.headers for each in answers), dict(socket_asked.headers)):
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize("stream", [True, False])
def test_a_streamed_or_held_answer_may_not_be_cached(
    server: Server, tenant: Tenant, worker: FakeWorker, stream: bool
) -> None:
    body = {"model": MODEL, "input": "Hello", "background": True, "stream": stream}
    with tenant.http.stream("POST", "/v1/responses", json=body) as answer:
        worker.complete(tenant.only_id())
        said = {each.strip() for each in answer.headers["cache-control"].split(",")}
        assert said == ({"no-cache", "no-store", "no-transform"} if stream else {"no-store"})
        assert answer.headers["x-content-type-options"] == "nosniff"
        answer.read()


def test_polling_with_an_etag_still_works(tenant: Tenant, worker: FakeWorker) -> None:
    job_id = tenant.submit()["id"]
    path = f"/v1/responses/{job_id}"
    etag = tenant.http.get(path).headers["etag"]
    unchanged = tenant.http.get(path, headers={"if-none-match": etag})
    assert (unchanged.status_code, unchanged.content, unchanged.headers["etag"]) == (304, b"", etag)
    worker.complete(job_id)
    changed = tenant.http.get(path, headers={"if-none-match": etag})
    assert (changed.status_code, changed.json()["status"]) == (200, "completed")


# --- the page that shows the document


def test_the_page_loads_nothing_from_elsewhere(server: Server) -> None:
    with server.client() as client:
        page = client.get("/docs")
        policy = dict(each.strip().split(" ", 1) for each in page.headers["content-security-policy"].split(";"))
        assert policy == DIRECTIVES
        assert "//" not in page.text.replace("<!doctype", "")
        assert re.findall(r"<script[^>]*>([^<]*)</script>", page.text) == ["", ""]
        assert "style=" not in page.text
        loaded = re.findall(r'(?:src|href|data-url)="([^"]+)"', page.text)
        kinds = {each: client.get(each).headers["content-type"].partition(";")[0] for each in loaded}
        assert kinds == {
            "/docs-files/favicon.png": "image/png",
            "/docs-files/swagger-ui.css": "text/css",
            "/docs-files/swagger-ui-bundle.js": "text/javascript",
            "/docs/show.js": "text/javascript",
            "/openapi.json": "application/json",
        }
        for each in loaded:
            answer = client.get(each)
            assert answer.status_code == 200
            assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path", ["/docs-files/..%2f..%2fcore.py", "/docs-files/../core.py", "/docs-files/", "/docs-files/x"]
)
def test_no_other_file_is_served_beside_the_page(server: Server, path: str) -> None:
    with server.client() as client:
        answer = client.get(path)
        assert answer.status_code == 404
        assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_a_browser_shows_the_page_without_the_internet(server: Server, tmp_path: object) -> None:
    command = [
        str(CHROMIUM),
        *("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", "--enable-logging=stderr"),
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        *("--virtual-time-budget=20000", "--dump-dom", f"{server.url}/docs"),
    ]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=90, check=True)
    assert len(re.findall(r'class="opblock opblock-', shown.stdout)) > 10
    assert "Backburner" in shown.stdout
    said = [each for each in shown.stderr.splitlines() if "CONSOLE" in each]
    assert said == []
