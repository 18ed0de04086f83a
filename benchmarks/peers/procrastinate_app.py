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


@app.task(name="call", queue="calls")  # the same name in the program that enqueues and in the worker
async def call(name: str, prompt: str) -> None:
    """Run one job."""
    answer = await client().post(work.RESPONSES, **work.request((name, prompt)))
    async with engine.begin() as tx:
        await tx.execute(insert(work.RESULTS).values(work.result((name, prompt), answer)))


_clients: list[httpx.AsyncClient] = []


def client() -> httpx.AsyncClient:
    """Return the client of this process. It must be created within its event loop."""
    if not _clients:
        _clients.append(httpx.AsyncClient(**work.HTTP))
    return _clients[0]


def setup() -> None:
    """Create its tables and ours."""
    with app.open():
        app.schema_manager.apply_schema()
    work.create_tables()


@contextmanager
def queue() -> Iterator[work.Put]:
    """Yield a function that defers jobs in batches."""

    def put(jobs: Sequence[work.Job]) -> None:
        call.batch_defer(*({"name": name, "prompt": prompt} for name, prompt in jobs))

    with app.open():
        yield put


if __name__ == "__main__":
    work.main(setup, queue)
