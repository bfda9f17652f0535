"""The release page as a browser would take it; what it says is tested with `release/decide`."""

from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.library.release.line import RULES, Line, make_line
from tutelage.report.intervals import interval_plot

VOID = {"meta", "br", "wbr", "link", "img", "input", "hr"}
FIGURE = {
    "name": "a",
    "difference": -0.5,
    "low": -0.6,
    "high": -0.4,
    "verdict": "better",
    "words": "better",
    "lower_is_better": True,
}


class Nesting(HTMLParser):
    """Fails on the first tag that is closed out of order; counts what was opened."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.count: dict[str, int] = {}

    def handle_starttag(self, tag, attrs):
        self.count[tag] = self.count.get(tag, 0) + 1
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.count[tag] = self.count.get(tag, 0) + 1

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> inside {self.open[-3:]}"
        self.open.pop()


@pytest.fixture
def line(tmp_path: Path) -> Line:
    return make_line(tmp_path)


@pytest.mark.parametrize("rules", [RULES, []])
def test_the_page_is_well_formed_and_loads_nothing(line, rules):
    line.run("release/decide", {"rules": rules})
    parser = Nesting()
    parser.feed(line.page())
    assert parser.open == []
    assert parser.count["h1"] == 1 and parser.count["svg"] == 1
    assert parser.count["table"] == parser.count["caption"] == 6
    assert not {"script", "img", "iframe", "link"} & set(parser.count)
    assert "http://" not in line.page() and "https://" not in line.page()


def test_the_page_names_no_path_of_this_machine(line, tmp_path):
    line.run("release/decide", {"rules": RULES})
    assert str(tmp_path) not in line.page()


def test_better_is_to_the_right_whichever_way_a_figure_counts():
    def middle(figure) -> float:
        plot = interval_plot([figure])
        return float(plot.split('<path d="M')[1].split()[0])

    lower = middle(FIGURE)
    higher = middle({**FIGURE, "difference": 0.5, "low": 0.4, "high": 0.6, "lower_is_better": False})
    worse = middle({**FIGURE, "verdict": "worse", "difference": 0.5, "low": 0.4, "high": 0.6})
    assert lower == higher > 180 > worse


def test_shapes_tell_verdicts_apart_without_colour():
    shapes = {
        verdict: interval_plot([{**FIGURE, "verdict": verdict}]) for verdict in ("better", "worse", "cannot_be_told")
    }
    assert "l6 11" in shapes["better"] and "l6 -11" in shapes["worse"] and "<circle" in shapes["cannot_be_told"]


def test_figures_without_an_interval_are_left_out_of_the_plot():
    assert interval_plot([{**FIGURE, "low": None}]) == ""
    assert interval_plot([{**FIGURE, "difference": 0, "low": 0, "high": 0}]).count("<line") == 4
    assert "<b>" not in interval_plot([{**FIGURE, "name": "<b>", "words": "<b>"}])
