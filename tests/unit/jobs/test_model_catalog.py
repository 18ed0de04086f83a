"""The models of the catalog, and the cost of a call by its prices."""

from datetime import date
from decimal import Decimal

import pytest

from jobs.errors import ModelUnknown
from jobs.job import Cost, CostSource, Usage
from jobs.model_catalog import Catalogue, Model, to_microusd

O3_PRO = "openai/o3-pro"


class TestCatalogue:
    def test_a_known_model_brings_its_facts(self) -> None:
        model = Catalogue([O3_PRO]).find(O3_PRO)
        assert (model.id, model.owned_by, model.context_window) == (O3_PRO, "openai", 200_000)
        assert model.priced_on is not None
        assert model.shutdown_date == date(2026, 12, 11)
        assert model.created == 1_749_513_600

    def test_an_alias_names_the_model_that_is_offered(self) -> None:
        assert Catalogue([O3_PRO]).find("o3-pro").id == O3_PRO

    def test_a_model_offered_under_its_alias_goes_out_under_it(self) -> None:
        """Another provider may list the same model by another name."""
        catalogue = Catalogue(["o3-pro-2025-06-10"])
        assert catalogue.find("o3-pro-2025-06-10").id == "o3-pro-2025-06-10"
        assert catalogue.find("o3-pro-2025-06-10").input_price is not None

    def test_an_unknown_model_is_offered_all_the_same_without_a_price(self) -> None:
        model = Catalogue(["vendor/new-model"]).find("vendor/new-model")
        assert model == Model("vendor/new-model")
        assert model.cost_of(Usage(1, 1, 2)) is None

    def test_they_stand_in_the_operators_order(self) -> None:
        assert [model.id for model in Catalogue(["b", O3_PRO, "a"]).models] == ["b", O3_PRO, "a"]

    @pytest.mark.parametrize("name", ["", "gpt-4", "OPENAI/O3-PRO", f"{O3_PRO} "])
    def test_what_is_not_offered_is_refused_and_the_offer_named(self, name: str) -> None:
        with pytest.raises(ModelUnknown) as refused:
            Catalogue([O3_PRO, "a/b"]).find(name)
        assert refused.value.message.endswith(f"This server offers: {O3_PRO}, a/b.")
        assert (refused.value.param, refused.value.code) == ("model", "model_not_found")


class TestCost:
    @pytest.mark.parametrize(
        ("usage", "microusd"),
        [
            (Usage(0, 0, 0), 0),
            (Usage(1_000_000, 0, 1_000_000), 27_508_000),
            (Usage(0, 1_000_000, 1_000_000), 110_032_000),
            (Usage(137, 914, 1051), 104_338),  # 3768.596 + 100569.248
            (Usage(1, 0, 1), 28),  # 27.508 rounded
        ],
    )
    def test_by_the_price_table(self, usage: Usage, microusd: int) -> None:
        assert Catalogue([O3_PRO]).find(O3_PRO).cost_of(usage) == Cost(microusd, CostSource.PRICE_TABLE)

    def test_with_half_a_price_there_is_none(self) -> None:
        assert Model("m", input_price=Decimal(1)).cost_of(Usage(1, 1, 2)) is None

    @pytest.mark.parametrize(
        ("dollars", "microusd"),
        [("0", 0), ("0.0000005", 1), ("0.0000004999", 0), ("1.0000015", 1_000_002), ("11.0032", 11_003_200)],
    )
    def test_money_is_rounded_half_up_to_millionths(self, dollars: str, microusd: int) -> None:
        assert to_microusd(Decimal(dollars)) == microusd
