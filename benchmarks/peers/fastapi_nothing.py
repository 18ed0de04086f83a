"""The limit of FastAPI: a route that takes no arguments and answers nothing."""

from fastapi import FastAPI

app = FastAPI()


@app.post("/v1/responses")
async def create() -> None:
    """Do nothing."""
