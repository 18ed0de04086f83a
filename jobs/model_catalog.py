"""The models and their prices, limits and dates. Models are data (`models.toml`), never constants in code."""

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_UP, Decimal
from fnmatch import fnmatchcase
from functools import cache, cached_property
from importlib.resources import files
from typing import Any

from jobs.errors import ModelUnknown
from jobs.job import Cost, CostSource, Usage


@dataclass(frozen=True)
class Model:
    """One model that this server offers. Prices are in US dollars per million tokens, None if unknown."""

    id: str
    aliases: tuple[str, ...] = ()
    owned_by: str = "provider"
    created: int = 0
    input_price: Decimal | None = None
    output_price: Decimal | None = None
    priced_on: date | None = None
    shutdown_date: date | None = None
    context_window: int | None = None
    max_output_tokens: int | None = None

    @cached_property
    def encrypts_reasoning(self) -> bool:
        """Return whether the model, judged by its name, can return encrypted reasoning."""
        bare = self.id.rpartition("/")[2]
        return any(fnmatchcase(bare, pattern) for pattern in _table()["encrypted_reasoning"])

    def cost_of(self, usage: Usage) -> Cost | None:
        """Return the cost of `usage` by the price table; None if the table has no price for this model."""
        if self.input_price is None or self.output_price is None:
            return None
        dollars = (usage.input_tokens * self.input_price + usage.output_tokens * self.output_price) / 1_000_000
        return Cost(to_microusd(dollars), CostSource.PRICE_TABLE)


def to_microusd(dollars: Decimal) -> int:
    """Return dollars as whole millionths, halves rounded up."""
    return int((dollars * 1_000_000).to_integral_value(ROUND_HALF_UP))


class Catalogue:
    """The models that this server offers, by id and alias, in the operator's order."""

    def __init__(self, offered: Iterable[str]) -> None:
        known = _known_models()
        self.models = tuple(replace(known[name], id=name) if name in known else Model(name) for name in offered)
        self._by_name = {alias: model for model in self.models for alias in model.aliases}
        self._by_name |= {model.id: model for model in self.models}

    def find(self, name: str) -> Model:
        """Return the model called `name`.

        Raises:
            ModelUnknown: the server does not offer it.
        """
        model = self._by_name.get(name)
        if model is None:
            offered = ", ".join(model.id for model in self.models)
            raise ModelUnknown(f"The model '{name}' does not exist here. This server offers: {offered}.", "model")
        return model

    def of_job(self, name: str) -> Model:
        """Return the model of a submitted job, even if the server no longer offers it."""
        return self._by_name.get(name) or Model(name)


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads(files("jobs").joinpath("models.toml").read_text("utf-8"))


@cache
def _known_models() -> dict[str, Model]:
    models = {}
    for row in _table()["model"]:
        model = Model(
            id=row["id"],
            aliases=tuple(row.get("aliases", ())),
            owned_by=row["owned_by"],
            created=int(datetime.combine(row["created"], datetime.min.time(), UTC).timestamp()),
            input_price=_price(row.get("input_usd_per_million")),
            output_price=_price(row.get("output_usd_per_million")),
            priced_on=row.get("priced_on"),
            shutdown_date=row.get("shutdown_date"),
            context_window=row.get("context_window"),
            max_output_tokens=row.get("max_output_tokens"),
        )
        models.update(dict.fromkeys((*model.aliases, model.id), model))
    return models


def _price(text: str | None) -> Decimal | None:
    return None if text is None else Decimal(text)
