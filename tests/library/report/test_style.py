"""Pages: self-contained, escaped, and readable by people who do not see them."""

from __future__ import annotations

import re

import pytest
from jinja2 import UndefinedError

from tutelage.report.style import environment, number, page


def test_a_page_loads_nothing_and_runs_nothing() -> None:
    html = page("Title", "<h1>Title</h1>")
    assert "default-src 'none'" in html.replace("&#39;", "'")
    assert "<script" not in html and not re.search(r"(src|href)=\"(?!#)", html) and "url(" not in html


def test_a_page_has_language_title_and_skip_link_for_those_who_do_not_see_it() -> None:
    html = page("A < B", "<h1>x</h1>")
    assert '<html lang="en">' in html and "<title>A &lt; B</title>" in html
    assert html.index('href="#content"') < html.index('<main id="content">')
    assert "prefers-color-scheme: dark" in html and "@media print" in html


def test_values_are_escaped_and_forgotten_ones_are_errors() -> None:
    assert environment().from_string("{{ text }}").render(text="<script>") == "&lt;script&gt;"
    with pytest.raises(UndefinedError):
        environment().from_string("{{ nothing }}").render()


@pytest.mark.parametrize(
    ("value", "shown"),
    [(1234567, "1,234,567"), (0.00012345, "0.0001234"), (12.0, "12"), (123456.7, "123,457"), (None, "unknown")],
)
def test_numbers_are_shown_for_readers(value: float | None, shown: str) -> None:
    assert number(value) == shown


def test_a_name_breaks_after_its_slashes_and_is_escaped():
    from tutelage.report.style import name

    assert name("perplexity/pretrain") == '<span class="name">perplexity/<wbr>pretrain</span>'
    assert name("a<b/c") == '<span class="name">a&lt;b/<wbr>c</span>'
    assert ".name { overflow-wrap: normal" in page("A", "b")
