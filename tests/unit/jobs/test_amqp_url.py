"""A broker behind `amqps://` is called only if its certificate is that host's, unless the operator asks for less."""

from pathlib import Path

import pytest

from jobs.celery_app import create_celery
from jobs.settings import load_settings
from jobs.task_queue import TaskQueue
from tests.support.names import NAMES, get_names
from tests.support.server import HOST, free_port
from tests.support.tls_proxy import CERTIFICATE, TlsProxy

ANOTHER = "127.0.0.2"
"""A host that the certificate does not name."""


@pytest.mark.parametrize(
    ("host", "query", "is_spoken_to"),
    [
        (HOST, "", False),
        (HOST, f"?ssl_ca_certs={CERTIFICATE}", True),
        (ANOTHER, f"?ssl_ca_certs={CERTIFICATE}", False),
        (ANOTHER, f"?ssl_ca_certs={CERTIFICATE}&ssl_check_hostname=false", True),
        (HOST, "?ssl_cert_reqs=none", True),
    ],
)
def test_its_certificate_is_verified(host: str, query: str, is_spoken_to: bool, tmp_path: Path) -> None:
    with TlsProxy(free_port()) as line:
        settings = load_settings(broker_url=f"amqps://me:p%40@{host}:{line.port}//{query}", data_dir=str(tmp_path))
        task_queue = TaskQueue(create_celery(settings), get_names)
        assert task_queue.unavailable_reason(NAMES) is not None  # nobody is behind it
        task_queue.close()
    assert bool(line.taken) is is_spoken_to
