"""The plain way: FastAPI, the async ORM of SQLAlchemy on PostgreSQL, and Celery's `apply_async` after the commit."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from uuid import uuid4

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, ConfigDict
from sqlalchemy import DateTime, make_url
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from benchmarks.peers import work
from benchmarks.peers.celery_app import call

engine = create_async_engine(make_url(work.DATABASE_URL).set(drivername="postgresql+asyncpg"), pool_size=20)
sessions = async_sessionmaker(engine, expire_on_commit=False)


class Base(DeclarativeBase):
    """The base of the ORM's classes."""


class Row(Base):
    """A submitted response."""

    __tablename__ = "responses"

    id: Mapped[str] = mapped_column(primary_key=True)
    model: Mapped[str]
    input: Mapped[str]
    status: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class Create(BaseModel):
    """The body of a create."""

    model: str
    input: str
    background: bool = True


class Response(BaseModel):
    """The body of an answer."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    model: str
    status: str
    created_at: datetime


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Create the table."""
    async with engine.begin() as tx:
        await tx.run_sync(Base.metadata.create_all)
    yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)


@app.post("/v1/responses")
async def create(body: Create) -> Response:
    """Store the response, then enqueue its task."""
    row = Row(id=str(uuid4()), model=body.model, input=body.input, status="queued", created_at=datetime.now(UTC))
    async with sessions() as session:
        session.add(row)
        await session.commit()
    call.apply_async((row.id, row.input))
    return Response.model_validate(row)


@app.get("/v1/responses/{response_id}")
async def retrieve(response_id: str) -> Response:
    """Return the row."""
    async with sessions() as session:
        row = await session.get(Row, response_id)
    if row is None:
        raise HTTPException(404)
    return Response.model_validate(row)
