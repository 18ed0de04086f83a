"""Plain Celery on Redis with a table of results. The command line chooses its pool."""

import resource
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import httpx
from celery import Celery
from celery.signals import worker_ready
from sqlalchemy import create_engine, insert

from benchmarks.peers import work

app = Celery("peer", broker=work.BROKER_URL)
app.conf.update(
    task_ignore_result=True,
    broker_transport_options={"max_connections": work.CONCURRENCY + 10},
    worker_pool_restarts=False,
)
engine = create_engine(work.DATABASE_URL or "sqlite://")
http = httpx.Client(**work.HTTP)


@app.task(name="call")  # the same name in the program that enqueues and in the worker
def call(name: str, prompt: str) -> None:
    """Run one job."""
    row = work.result((name, prompt), http.post(work.RESPONSES, **work.request((name, prompt))))
    with engine.begin() as tx:
        tx.execute(insert(work.RESULTS).values(row))


@contextmanager
def queue() -> Iterator[work.Put]:
    """Yield a function that enqueues over one connection to the broker."""

    def put(jobs: Sequence[work.Job]) -> None:
        for job in jobs:
            call.apply_async(job, producer=producer)

    with app.producer_pool.acquire(block=True) as producer:
        yield put


@worker_ready.connect
def ready(**_: object) -> None:
    """Raise the limit of open files, for a socket per call, and print that the worker is ready."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    print("worker ready", flush=True)


if __name__ == "__main__":
    work.main(work.create_tables, queue)
