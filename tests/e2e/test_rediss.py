"""A Redis behind TLS: every client verifies its certificate, unless the operator asks for less."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from redis.exceptions import RedisError

from cli.doctor.local import check_broker, check_redis
from cli.doctor.result import Level
from jobs.celery_app import create_celery
from jobs.redis_url import connect, connect_async
from jobs.settings import load_settings
from jobs.task_queue import TaskQueue
from tests.support.names import get_names
from tests.support.server import HOST
from tests.support.stack import Stack
from tests.support.tls_proxy import CERTIFICATE, TlsProxy
from tests.support.valkey import ValkeyServer

ANOTHER = "127.0.0.2"
"""A host that the certificate does not name."""

pytestmark = [pytest.mark.one_database, pytest.mark.long]


@pytest.mark.parametrize(
    ("host", "query", "works"),
    [
        (HOST, "", False),
        (HOST, "?ssl_cert_reqs=none", True),
        (HOST, "?ssl_cert_reqs=CERT_NONE", True),
        (HOST, f"?ssl_ca_certs={CERTIFICATE}", True),
        (ANOTHER, f"?ssl_ca_certs={CERTIFICATE}", False),
        (ANOTHER, f"?ssl_ca_certs={CERTIFICATE}&ssl_check_hostname=false", True),
    ],
)
def test_everybody_verifies_the_certificate_alike(
    valkey: ValkeyServer, tmp_path: Path, host: str, query: str, works: bool
) -> None:
    with TlsProxy(valkey.port) as line:
        url = f"rediss://{host}:{line.port}/0{query}"
        settings = load_settings(redis_url=url, data_dir=str(tmp_path), namespace="of-this-test")
        task_queue = TaskQueue(create_celery(settings), get_names)
        seen = [task_queue.depth() is not None, check_redis(url).level is Level.OK]
        seen.append(check_broker(settings).level is Level.OK)
        seen += [_answers(lambda: connect(url).ping()), _answers(lambda: asyncio.run(_ping(url)))]
        task_queue.close()
        assert seen == [works] * 5
        assert bool(line.taken) is works


def _answers(ping: Callable[[], object]) -> bool:
    try:
        return bool(ping())
    except RedisError:
        return False


async def _ping(url: str) -> object:
    async with connect_async(url) as client:
        return await client.ping()


def test_jobs_run_over_it(valkey: ValkeyServer, tmp_path: Path) -> None:
    with TlsProxy(valkey.port) as line:
        url = f"rediss://{HOST}:{line.port}/0?ssl_ca_certs={CERTIFICATE}"
        with Stack(f"sqlite:///{tmp_path}/backburner.db", url, tmp_path) as stack:
            job_id = stack.submit("[[sim: full delay=0]] Hello")
            stack.await_all([job_id], "completed", 30)
            assert len(stack.calls(job_id)) == 1
            assert httpx.get(f"{stack.base_url.removesuffix('/v1')}/readyz").json()["status"] == "ok"
