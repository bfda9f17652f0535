"""The pages as a browser takes them: nothing in the console, nothing from the network, nothing too wide, everything reachable."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser import Browser, Page, chromium
from tests.library.conftest import SyntheticRun
from tests.library.release.line import RULES, Line, make_line
from tutelage.contracts import tables
from tutelage.contracts.manifest import read
from tutelage.plan.written import write_plan
from tutelage.report.run_page import render
from tutelage.report.style import page as whole_page

pytestmark = pytest.mark.skipif(chromium() is None, reason="no Chromium on PATH: apt-get install chromium")

WIDE, PHONE, PAPER = 1280, 390, 794
MAXIMUM_BYTES = 2_000_000
EVIL = "<script>alert('x')</script><img src=https://example.org/x.png>"
LONG = "w" * 3000
NAMES = [
    EVIL,
    LONG,
    "مجموعة بيانات\u202e",
    "数据集的名称" * 20,
    "🚀 źródło",
    "a/b" * 200,
    *(f"source-{n}" for n in range(194)),
]
TAB = 9
FOCUSABLE = """[...document.querySelectorAll('a[href], summary, [tabindex="0"]')].filter(element => element.checkVisibility())"""
WIDTHS = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"
OPEN_ALL = "document.querySelectorAll('details').forEach(element => { element.open = true })"
GROUND = "getComputedStyle(document.body).backgroundColor"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Release pages of a PASS and of a FAIL, run pages of a good and of a failed run, a plan page, and hostile ones."""
    root = tmp_path_factory.mktemp("pages")
    line, hostile = make_line(root / "line"), make_line(root / "hostile")
    found = {"released": released(line, RULES), "refused": released(line, [])}
    poison(hostile)
    found["hostile release"] = released(hostile, [{"figure": EVIL, "must_be": "better"}])
    found["plan"] = planned(root / "plan", ["notes"])
    found["hostile plan"] = planned(root / "hostile-plan", [name[:60] for name in NAMES])
    good, bad = SyntheticRun(root / "runs", "good"), SyntheticRun(root / "runs", "bad", 10)
    good.whole()
    good.close("done")
    bad.prepare()
    bad.fail("train/train", "train-sft", f"{EVIL} {LONG} 🚀", LONG)
    (bad.folder / "logs" / "train-sft.log").write_text(f"Traceback\n{LONG}\n{EVIL}\n")
    bad.close("failed")
    for name, run in (("run", good), ("hostile run", bad)):
        found[name] = run.folder / "report.html"
        found[name].write_text(
            render(run.folder, needs={EVIL: (), LONG: (EVIL,), "🚀": (LONG,)} if run is bad else None)
        )
    return found


def released(line: Line, rules: list[dict[str, str]]) -> Path:
    line.run("release/decide", {"rules": rules, "name": "small-model"})
    return Path(line.manifests["page"].location) / "page.html"


def planned(folder: Path, names: list[str]) -> Path:
    folder.mkdir()
    (folder / "text.txt").write_text("Some text.\n")
    text = {"uri": str(folder / "text.txt"), "licence": "MIT"}
    parameters = {
        "sources": [{"name": name, "phase": "pretrain", "format": "text", **text} for name in names],
        "base_model": {"licence": "MIT", "initialise": {"tokenizer_corpus": [text]}},
        "policy": {"release": {"rules": [{"figure": name, "must_be": "better"} for name in names]}},
    }
    write_plan("continued_pretraining", parameters, folder / "cache", folder / "out")
    return folder / "out" / "page.html"


def poison(line: Line) -> None:
    """200 sources with hostile names, each with a row dropped and a row kept, under hostile reasons and places."""
    rows = [
        {"id": f"{kind}{index:03}", "phase": "pretrain", "text": "text", "source": name, "licence": "MIT", "group": "g",
         "language": "en", "metadata": "{}"}
        for index, name in enumerate(NAMES) for kind in ("kept", "lost")
    ]  # fmt: skip
    lost = [{"id": row["id"], "reason": EVIL if index % 2 else LONG, "source": row["source"], "detail": EVIL}
            for index, row in enumerate(rows[1::2])]  # fmt: skip
    reports = [{"name": name, "uri": "file:///x", "phase": "pretrain", "licence": LONG, "rows": 2} for name in NAMES]
    line.put(
        "documents", "documents", "data/ingest", {}, rows=400, rows_in=400, details={"sources": reports},
        write=lambda folder: tables.write(rows, str(folder), "rows", tables.ROWS).hexdigest(),
    )  # fmt: skip
    line.put(
        "curated", "documents", "data/curate", {"documents": "documents"}, rows=200, rows_in=400,
        dropped={LONG: 100, EVIL: 100}, details={"masked": {EVIL: [LONG]}, "personal_data": {LONG: 3}},
        write=lambda folder: tables.write(lost, str(folder), "dropped", tables.DROPPED).hexdigest(),
    )  # fmt: skip

    for name in ("unique", "splits"):
        line.alter(name, dropped={}, rows_in=line.manifests[name].rows)


def problems(page: Page, file: Path) -> list[str]:
    """What is wrong with an open page, with everything unfolded."""
    page.evaluate(OPEN_ALL)
    width, room = page.evaluate(WIDTHS)
    found = [f"console: {text}" for text in page.messages]
    found += [f"asked for {url}" for url in page.requests if url != file.absolute().as_uri()]
    found += [f"{width - room} pixels too wide"] if width > room else []
    found += ["too large"] if file.stat().st_size > MAXIMUM_BYTES else []
    return found


ALL = ("released", "refused", "run", "plan", "hostile release", "hostile run", "hostile plan")


@pytest.mark.parametrize("name", ALL)
def test_a_page_fits_wide_and_narrow_and_on_paper_and_asks_for_nothing(browser, pages, name):
    for width, printed in ((WIDE, False), (PHONE, False), (PAPER, True)):
        assert problems(browser.open(pages[name], width=width, printed=printed), pages[name]) == [], width


def test_a_page_that_breaks_these_rules_is_noticed(browser, tmp_path):
    file = tmp_path / "page.html"
    file.write_text(f"{whole_page('x', f'<img src=https://example.org/x.png><p style=white-space:pre>{LONG}</p>')}")
    found = "\n".join(problems(browser.open(file, width=PHONE), file))
    assert "console:" in found and "Content Security Policy" in found and "too wide" in found
    file.write_text("<img src=missing.png><script>console.log('hello')</script>")
    found = "\n".join(problems(browser.open(file), file))
    assert "asked for file" in found and "hello" in found


@pytest.mark.parametrize("name", ["released", "run", "plan"])
def test_the_dark_page_is_dark_and_the_printed_one_white(browser, pages, name):
    seen = {}
    for dark in (False, True):
        page = browser.open(pages[name], dark=dark)
        seen[dark] = page.evaluate(GROUND), page.screenshot()
    assert seen[False][0] == "rgb(255, 255, 255)" != seen[True][0]
    assert seen[False][1] != seen[True][1]
    printed = browser.open(pages[name], dark=True, printed=True)
    assert printed.evaluate(GROUND) == "rgb(255, 255, 255)"
    assert printed.pdf().startswith(b"%PDF")


@pytest.mark.parametrize("name", ["released", "refused", "run", "plan"])
def test_everything_that_can_be_used_is_reached_by_the_tab_key_first_the_skip_link(browser, pages, name):
    page = browser.open(pages[name])
    count = page.evaluate(f"{FOCUSABLE}.length")
    order = []
    for _ in range(count):
        page.press("Tab", TAB)
        order.append(page.evaluate(f"{FOCUSABLE}.indexOf(document.activeElement)"))
    assert sorted(order) == list(range(count)) and order[0] == 0
    assert page.evaluate(f"{FOCUSABLE}[0].className") == "skip"


@pytest.mark.parametrize("name", ["released", "refused", "run", "plan", "hostile run"])
def test_everything_that_is_looked_at_or_used_has_a_name_for_those_who_do_not_see_it(browser, pages, name):
    page = browser.open(pages[name])
    page.evaluate(OPEN_ALL)
    page.send("Accessibility.enable")
    nodes = page.send("Accessibility.getFullAXTree")["nodes"]
    named = {"image", "link", "region", "table", "heading", "navigation", "group"}
    roles = {node["role"]["value"] for node in nodes if not node["ignored"]}
    assert {"table", "heading", "navigation", "region", "link"} <= roles
    nameless = [
        node["role"]["value"] for node in nodes
        if not node["ignored"] and node["role"]["value"] in named - {"group"} and not node.get("name", {}).get("value")
    ]  # fmt: skip
    assert nameless == []


def test_each_box_of_the_graph_takes_the_focus_and_leads_to_its_task(browser, pages):
    page = browser.open(pages["run"])
    boxes = page.evaluate("[...document.querySelectorAll('svg.graph a')].map(box => box.getAttribute('href'))")
    assert "#task-train-sft" in boxes
    for box in boxes:
        assert page.evaluate(f"(box => {{ box.focus(); return document.activeElement === box }})"
                             f"(document.querySelector('svg.graph a[href=\"{box}\"]'))")  # fmt: skip
        assert page.evaluate(f"document.querySelector('{box}').tagName") == "TR"


def test_a_refusal_is_explained_before_anything_else(browser, pages):
    text = browser.open(pages["refused"]).evaluate("document.querySelector('main').innerText")
    assert text.startswith("Refused: small-model")
    assert (
        text.index("must not be released, because 1 of")
        < text.index("What to do:")
        < text.index("Against the baseline")
    )


@pytest.mark.parametrize("name", ["released", "refused", "run"])
def test_a_phone_shows_every_interval_whole_with_its_marker_and_its_words(browser, pages, name):
    page = browser.open(pages[name], width=PHONE)
    parts = "[...document.querySelectorAll('svg.intervals :is(text, path, circle)')].map(part => part.getBoundingClientRect())"
    edges = page.evaluate(f"{parts}.map(part => part.right)")
    assert len(edges) > 5 and max(edges) <= PHONE
    texts = page.evaluate(f"{parts.replace(', path, circle', '')}.map(part => part.height)")
    assert min(texts) >= 12, "smaller than a phone's reader can take"


def test_what_is_wider_than_a_phone_shows_a_shade_where_it_goes_on(browser, pages):
    page = browser.open(pages["run"], width=PHONE)
    shaded = "[...document.querySelectorAll('.figure, .table')].filter(part => part.scrollWidth > part.clientWidth)"
    assert page.evaluate(f"{shaded}.some(part => part.classList.contains('figure'))"), "the timeline is wider"
    assert page.evaluate(f"{shaded}.every(part => getComputedStyle(part).backgroundImage.includes('gradient'))")


def test_hostile_names_are_shown_as_text(browser, pages):
    text = browser.open(pages["hostile release"]).evaluate("document.body.textContent")
    assert EVIL in text and "数据集的名称" in text and "source-193" in text
    assert browser.open(pages["hostile release"]).evaluate("document.images.length + document.scripts.length") == 0


@pytest.mark.slow
def test_the_pages_of_a_real_run_hold_too(browser, tiny):
    plan = tiny.record["artifacts"]["check/plan"]["manifest"]
    files = [Path(tiny.record["release_page"]), Path(tiny.record["report"]), Path(read(plan).file("page.html"))]
    for file in files:
        for width in (WIDE, PHONE):
            page = browser.open(file, width=width)
            assert problems(page, file) == []
            assert str(tiny.runs) not in page.evaluate("document.body.innerText")
    text = browser.open(files[0]).evaluate("document.body.innerText")
    assert text.count("networkx-prose") and text.count("e-mail addresses: 1") and "CPU seconds" in text
    assert json.loads((tiny.folder / "run.json").read_text())["verdict"] in text
