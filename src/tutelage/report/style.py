"""The design that all pages share: one self-contained HTML file, no script, no network, readable in ten years.

    from tutelage.report.style import environment, page
    html = page("Plan", environment().from_string("<h1>{{ title }}</h1>").render(title="Plan"))

Light and dark by `prefers-color-scheme`, printable, usable by keyboard and screen reader: a skip link, one `h1`, tables with
captions and header cells (wide ones scroll inside a focusable region), states told by word and sign, never by colour alone.
Classes for bodies: `facts` (a list of term and value), `tiles` (the same, as figures to take in at a glance), `lead` (the first
paragraph, with `good` or `bad` its colour), `table` (the scroll region), `figure` (the same for a drawing), `number`, `good`,
`bad`, `note`, `changed`, `whole` (stays
on one line), `name` (breaks between words and after a slash, never inside a word). Templates lie beside this file;
`tables.jinja` holds what several pages show.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from tutelage.report import words

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

CSS = """
:root { color-scheme: light dark; --text: #1b1f24; --soft: #57606a; --line: #d0d7de; --ground: #ffffff; --raised: #f6f8fa;
  --shade: #1b1f2433; --accent: #0550ae; --good: #116329; --bad: #a40e26; --note: #7d4e00; }
@media (prefers-color-scheme: dark) { :root { --text: #e6edf3; --soft: #9da7b3; --line: #30363d; --ground: #0d1117;
  --raised: #161b22; --shade: #00000099; --accent: #79b8ff; --good: #56d364; --bad: #ff8f8a; --note: #e3b341; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--text);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
main { max-width: 76rem; margin: 0 auto; padding: 1.5rem 1.25rem 4rem; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0.5rem 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.25rem 0 0.75rem; padding-bottom: 0.25rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.5rem 0 0.5rem; }
p, li { max-width: 46rem; overflow-wrap: anywhere; }
a { color: var(--accent); }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
.skip { position: absolute; left: -99rem; }
.skip:focus { left: 1rem; top: 0.5rem; background: var(--ground); padding: 0.5rem; }
code, pre, .digest { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: 0.875em;
  overflow-wrap: anywhere; }
pre { background: var(--raised); border: 1px solid var(--line); border-radius: 6px; padding: 0.75rem; overflow-x: auto; }
.table { margin: 0.75rem 0 1.25rem; border: 1px solid var(--line); border-radius: 6px; }
.table, .figure { overflow-x: auto; background:
  linear-gradient(90deg, var(--ground) 1rem, transparent) 0 0 / 2.5rem 100% no-repeat local,
  linear-gradient(-90deg, var(--ground) 1rem, transparent) 100% 0 / 2.5rem 100% no-repeat local,
  linear-gradient(90deg, var(--shade), transparent) 0 0 / 0.6rem 100% no-repeat,
  linear-gradient(-90deg, var(--shade), transparent) 100% 0 / 0.6rem 100% no-repeat; }
.figure svg { min-width: 30rem; } .figure svg:is(.graph, .intervals) { min-width: 0; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: 0.5rem 0.75rem; color: var(--soft); }
th, td { text-align: left; vertical-align: top; padding: 0.4rem 0.75rem; border-top: 1px solid var(--line);
  overflow-wrap: break-word; }
th .soft, th .digest { font-weight: 400; }
.name { overflow-wrap: normal; word-break: keep-all; }
thead th { background: var(--raised); white-space: nowrap; }
th.number, td.number { text-align: right; white-space: nowrap; overflow-wrap: normal; }
.lead { max-width: none; margin: 0 0 1rem; padding: 0.9rem 1.1rem; background: var(--raised); border: 1px solid var(--line);
  border-left: 6px solid var(--accent); border-radius: 6px; overflow-wrap: anywhere; }
.lead.good { border-left-color: var(--good); } .lead.bad { border-left-color: var(--bad); }
.lead.good, .lead.bad { color: inherit; font-weight: inherit; }
.lead > p { max-width: 60rem; margin: 0.4rem 0; } .lead > :first-child { margin-top: 0; font-size: 1.1rem; }
.lead ul, .lead ol { margin: 0.4rem 0; padding-left: 1.4rem; } .lead li { margin: 0.35rem 0; max-width: 60rem; }
dl.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: 0.6rem; margin: 0 0 1.25rem; }
dl.tiles > div { border: 1px solid var(--line); border-radius: 6px; padding: 0.5rem 0.8rem; }
dl.tiles dt { color: var(--soft); font-size: 0.875rem; } dl.tiles dd { margin: 0; font-size: 1.25rem; font-weight: 600; }
dl.tiles dd span { font-size: 0.875rem; font-weight: 400; color: var(--soft); }
dl.facts { display: grid; grid-template-columns: max-content 1fr; gap: 0.3rem 1.25rem; margin: 0.75rem 0; }
dl.facts dt { color: var(--soft); }
dl.facts dd { margin: 0; overflow-wrap: anywhere; }
.good { color: var(--good); font-weight: 600; }
.bad { color: var(--bad); font-weight: 600; }
.whole { white-space: nowrap; }
.note { color: var(--note); }
.soft { color: var(--soft); }
tr.changed > :first-child { box-shadow: inset 3px 0 0 var(--accent); }
.badge { display: inline-block; padding: 0.1rem 0.6rem; border: 2px solid currentColor; border-radius: 999px; }
details { margin: 0.5rem 0; }
summary, caption, h2, h3, dd { overflow-wrap: anywhere; }
summary { cursor: pointer; padding: 0.25rem 0; }
svg, img { max-width: 100%; height: auto; }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: 0.25rem 1.25rem; padding: 0; margin: 0 0 1rem; }
footer { margin-top: 3rem; padding-top: 0.75rem; border-top: 1px solid var(--line); color: var(--soft); }
@media (max-width: 40rem) { dl.facts { grid-template-columns: 1fr; gap: 0; } dl.facts dd { margin-bottom: 0.5rem; } }
@media screen and (max-width: 40rem) { .table table { width: max-content; min-width: 100%; }
  .table :is(th, td) { max-width: 17rem; } .table caption { max-width: calc(100vw - 4rem); }
  .table td .digest { display: block; } }
@media print { :root { --ground: #fff; --text: #000; --soft: #333; --line: #999; --raised: #fff; --accent: #000; --good: #000;
  --bad: #000; --note: #000; } main { max-width: none; padding: 0; } .skip, nav { display: none; }
  .table, .figure { overflow: visible; border: 0; background: none; } .figure svg { min-width: 0; }
  tr, h2, h3 { break-inside: avoid; } h2, h3 { break-after: avoid; }
  table { font-size: 8.5pt; } :is(th, td) { padding: 0.25rem 0.4rem; } .number .soft { white-space: normal; }
  :is(th, td):not(.number), .name { overflow-wrap: anywhere; word-break: normal; }
  pre { white-space: pre-wrap; } details::details-content { content-visibility: visible; }
  body { font-size: 10pt; } }
"""

#: Nothing may be loaded or run by a page, whatever text ends up in it.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
)

FRAME = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{{ policy }}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{ title }}</title>
<style>{{ css | safe }}</style>
</head>
<body>
<a class="skip" href="#content">Skip to content</a>
<main id="content">
{{ body | safe }}
</main>
</body>
</html>
"""


@cache
def environment() -> Environment:
    """The jinja2 Environment of all pages: values are escaped, an undefined name is an error, blocks leave no blank lines.

    Templates are the `*.jinja` beside this file. Filters: `number` (1234567 → 1,234,567; 0.00012 → 0.00012; None → "unknown"),
    `short` (a digest's first 12 characters), `name` (a figure's name or a rule on it, which a narrow column breaks after a slash
    and not inside a word), `duration`, `bytes`, and those of `words`: `shown`, `reason`, `personal_data`, `measures`, `change`.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).parent)
    made = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=loader,
        auto_reload=False,
    )
    made.filters |= {"number": number, "name": name, "duration": duration, "bytes": size}
    made.filters["short"] = lambda digest: str(digest)[:12]
    made.filters |= {"shown": words.shown, "reason": words.reason, "personal_data": words.personal_data}
    made.filters |= {"measures": words.figure, "change": words.change}
    return made


def name(text: str) -> Markup:
    """A name such as perplexity/pretrain as HTML that may be broken after its slashes."""
    from markupsafe import Markup, escape

    return Markup('<span class="name">{}</span>').format(
        Markup("/<wbr>").join(
            Markup(".<wbr>").join(escape(word) for word in part.split(".")) for part in text.split("/")
        )
    )


def number(value: float | None, digits: int = 4) -> str:
    """A number for readers: thousands separated, `digits` significant digits for fractions, "unknown" for None."""
    if value is None:
        return "unknown"
    if float(value).is_integer():
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"


def duration(seconds: float | None) -> str:
    """Seconds for readers: < 0.1 s, 0.4 s, 12 s, 3 min 20 s, 2 h 5 min; "" when unknown."""
    if seconds is None:
        return ""
    if seconds < 0.1:
        return "< 0.1 s"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size(count: float | None) -> str:
    """Bytes for readers: 512 B, 3.4 kB, 93 MB, "unknown"."""
    if count is None:
        return "unknown"
    value, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.0f} {units[0]}" if value >= 10 or units[0] == "B" else f"{value:.1f} {units[0]}"


def page(title: str, body_html: str) -> str:
    """A whole page: `title` is escaped, `body_html` is HTML that a template of `environment()` has rendered."""
    frame = environment().from_string(FRAME)
    return frame.render(title=title, policy=CONTENT_SECURITY_POLICY, css=CSS, body=body_html)
