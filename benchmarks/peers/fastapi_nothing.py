"""The limit of FastAPI: a route without arguments and with an empty answer."""

from fastapi import FastAPI

app = FastAPI()


@app.post("/v1/responses")
async def create() -> None:
    """Do nothing."""
