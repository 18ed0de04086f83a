"""Foreign text made safe to store and show."""

import pytest

from jobs.text_limits import PROVIDER_MESSAGE
from worker.provider.clean_text import looks_like_html, message_of, name_of, page_title


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("  plain words \n", "plain words"),
        ("two\r\nlines\tand a tab", "two\nlines\tand a tab"),
        ("nul\x00 bell\x07 escape\x1b[31m", "nul bell escape[31m"),
        ("half \ud83d of a pair", "half  of a pair"),
        ("Grüße \N{GRINNING FACE}", "Grüße \N{GRINNING FACE}"),
        ("x" * 5000, "x" * (PROVIDER_MESSAGE - 1) + "…"),
    ],
)
def test_messages(given: str, kept: str) -> None:
    assert message_of(given) == kept


@pytest.mark.parametrize(
    ("given", "kept"),
    [("resp_1", "resp_1"), (" a\x00b ", "ab"), ("", None), (7, None), (None, None), ("x" * 999, "x" * 200)],
)
def test_names(given: object, kept: str | None) -> None:
    assert name_of(given) == kept


@pytest.mark.parametrize(
    ("page", "says"),
    [
        ("<html><head><title>502 Bad\n Gateway</title></head><body>nginx</body></html>", "502 Bad Gateway"),
        ("<!DOCTYPE html><html><title> </title><h1>Oh <b>no</b> &amp; more</h1></html>", "Oh no & more"),
        ("<html><style>p {}</style><script>run()</script><p>Only <i>this</i></p></html>", "Only this"),
    ],
)
def test_pages(page: str, says: str) -> None:
    assert looks_like_html(page)
    assert page_title(page) == says


@pytest.mark.parametrize("text", ["{}", "", "a < b", "<xml>not a page</xml>"])
def test_texts_that_are_no_page(text: str) -> None:
    assert not looks_like_html(text)
