"""procrastinate: jobs in PostgreSQL, woken by LISTEN/NOTIFY, many at once in one event loop."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import httpx
from procrastinate import App, PsycopgConnector
from sqlalchemy import insert, make_url
from sqlalchemy.ext.asyncio import create_async_engine

from benchmarks.peers import work

app = App(connector=PsycopgConnector(conninfo=work.DATABASE_URL, min_size=2, max_size=work.CONNECTIONS))
engine = create_async_engine(
    make_url(work.DATABASE_URL).set(drivername="postgresql+asyncpg"), pool_size=work.CONNECTIONS, max_overflow=0
)


@app.task(name="call", queue="calls")  # as the program that enqueues and the worker both know it
async def call(name: str, prompt: str) -> None:
    """One job."""
    answer = await client().post(work.RESPONSES, **work.request((name, prompt)))
    async with engine.begin() as tx:
        await tx.execute(insert(work.RESULTS).values(work.result((name, prompt), answer)))


_clients: list[httpx.AsyncClient] = []


def client() -> httpx.AsyncClient:
    """The one of this process, made within its loop."""
    if not _clients:
        _clients.append(httpx.AsyncClient(**work.HTTP))
    return _clients[0]


def setup() -> None:
    """Make its own tables and ours."""
    with app.open():
        app.schema_manager.apply_schema()
    work.create_tables()


@contextmanager
def queue() -> Iterator[work.Put]:
    """Jobs are deferred in batches."""

    def put(jobs: Sequence[work.Job]) -> None:
        call.batch_defer(*({"name": name, "prompt": prompt} for name, prompt in jobs))

    with app.open():
        yield put


if __name__ == "__main__":
    work.main(setup, queue)
