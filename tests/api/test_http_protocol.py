"""Answers on the wire: one piece each, and a head that does not wait for a body."""

import json
import socket
import struct
import sys
from contextlib import closing
from http.client import HTTPConnection

import pytest

from tests.api.world import MODEL, Server, Tenant

CREATE = json.dumps({"model": MODEL, "input": "Hello", "background": True})
DATA_SEGMENTS_IN = 152
"""Where `tcpi_data_segs_in` lies in Linux's `struct tcp_info`."""


def segments(connection: HTTPConnection) -> int:
    """How many pieces with data in them have come."""
    assert connection.sock is not None
    info = connection.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    (count,) = struct.unpack_from("I", info, DATA_SEGMENTS_IN)
    return int(count)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts segments")
def test_an_answer_comes_in_one_piece(server: Server, tenant: Tenant) -> None:
    job_id = tenant.submit()["id"]
    headers = {"authorization": f"Bearer {tenant.secret}"}
    etag = tenant.http.get(f"/v1/responses/{job_id}").headers["etag"]
    with closing(HTTPConnection("127.0.0.1", server.port, timeout=10)) as connection:
        connection.connect()
        for method, path, extra, status in (
            ("GET", f"/v1/responses/{job_id}", {}, 200),
            ("GET", f"/v1/responses/{job_id}", {"if-none-match": etag}, 304),
            ("GET", "/v1/responses/resp_none", {}, 404),
            ("POST", f"/v1/responses/{job_id}/cancel", {}, 200),
            ("GET", "/healthz", {}, 200),
            ("POST", "/v1/responses", {}, 200),
            ("POST", "/v1/responses", {"x-stainless-retry-count": "0"}, 200),  # as every SDK
        ):
            before = segments(connection)
            body = CREATE if path == "/v1/responses" else None
            connection.request(method, path, body, headers | extra)
            answer = connection.getresponse()
            assert (answer.status, bool(answer.read())) == (status, status != 304)
            assert segments(connection) == before + 1, path


def test_a_head_does_not_wait_for_a_body_that_is_long_in_coming(tenant: Tenant) -> None:
    job_id = tenant.submit()["id"]
    after_all = {"stream": "true", "starting_after": "99"}
    with tenant.http.stream("GET", f"/v1/responses/{job_id}", params=after_all, timeout=10) as answer:
        assert answer.status_code == 200
