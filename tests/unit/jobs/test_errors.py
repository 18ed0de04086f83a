"""The tree of errors is what its drawing says."""

import pytest

from jobs import errors
from jobs.errors import BackburnerError, CallerError, JobNotFound, ModelUnknown, RequestInvalid, StaleJob


def test_every_error_stands_in_the_drawing_and_every_name_drawn_exists() -> None:
    defined = {
        name for name, each in vars(errors).items() if isinstance(each, type) and issubclass(each, BackburnerError)
    }
    drawing = (errors.__doc__ or "").replace("├", " ").replace("└", " ").replace("│", " ").replace("─", " ")
    drawn = {line.split()[0] for line in drawing.splitlines() if line.startswith("    ")}
    assert drawn == defined


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RequestInvalid("m", "input[0].content"), None),
        (RequestInvalid("m", "input[0].content", "invalid_type"), "invalid_type"),
        (ModelUnknown("m", "input[0].content"), "model_not_found"),
        (JobNotFound("m", "input[0].content", ""), ""),
    ],
)
def test_a_callers_error_says_what_where_and_by_which_name(error: CallerError, code: str | None) -> None:
    assert (error.message, error.param, error.code, str(error)) == ("m", "input[0].content", code, "m")


def test_a_stale_job_is_no_callers_error() -> None:
    error = StaleJob("resp_1", "claim")
    assert not isinstance(error, CallerError)
    assert str(error) == "claim came too late for resp_1"
