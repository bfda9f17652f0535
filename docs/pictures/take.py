"""Take the pictures of the README from a run that is there:  make pictures  (RUN=<name> for another than the latest)

    python -m docs.pictures.take latest --runs runs

Needs Chromium. A picture is the top of a page as a browser shows it; nothing is drawn by hand.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from tests.browser import Browser, chromium
from tutelage.contracts import locations
from tutelage.contracts.manifest import read
from tutelage.errors import InvalidInput, TutelageError
from tutelage.orchestrate.pages import write_report
from tutelage.orchestrate.records import find_run
from tutelage.runtimes.settings import read_settings
from tutelage.step import repository_root

#: Picture → (page, width, height), in CSS pixels.
PICTURES = {
    "release.png": ("release", 1280, 1000),
    "release-phone.png": ("release", 390, 844),
    "run.png": ("run", 1280, 1500),
    "plan.png": ("plan", 1280, 1000),
}
MAXIMUM_BYTES = 400_000


def pages_of(folder: Path) -> dict[str, Path]:
    """The pages of a run: release, run and plan. Raises InvalidInput for a run that has not all of them."""
    plan = json.loads((folder / "run.json").read_text())["artifacts"].get("check/plan", {}).get("manifest")
    pages = {"release": folder / "release.html", "run": Path(write_report(folder))}
    if plan is not None:
        pages["plan"] = locations.local_path(read(plan).file("page.html"))
    missing = sorted({"release", "run", "plan"} - {name for name, page in pages.items() if page.is_file()})
    if missing:
        hint = "take a run that came to its verdict: tutelage runs"
        raise InvalidInput(f"run {folder.name} has no {' and no '.join(missing)} page", hint=hint)
    return pages


def take(pages: dict[str, Path], target: Path) -> list[Path]:
    """Write every picture into `target`. Raises InvalidInput where a page names a folder of this machine or is too large."""
    private = {str(place) for place in (repository_root(), Path.home()) if len(str(place)) > 1}
    written = []
    with Browser() as browser:
        for name, (page, width, height) in PICTURES.items():
            shown = browser.open(pages[page], width=width, height=height, scale=2 if width < 600 else 1)
            words = str(shown.evaluate("document.body.innerText"))
            if found := sorted(place for place in private if f"{place}/" in words):
                raise InvalidInput(
                    f"{pages[page]} names {', '.join(found)}", hint="a page names places below runs only"
                )
            picture = shown.screenshot()
            if len(picture) > MAXIMUM_BYTES:
                raise InvalidInput(f"{name} has {len(picture):,} bytes, accepted: {MAXIMUM_BYTES:,}")
            (target / name).write_bytes(picture)
            written.append(target / name)
    return written


@click.command()
@click.argument("run", default="latest")
@click.option("--runs", metavar="DIR", help="Folder of the runs (default: what tutelage.toml says).")
@click.option("--to", "target", type=Path, default=Path(__file__).parent, help="Folder for the pictures.")
def main(run: str, runs: str | None, target: Path) -> None:
    """Take the pictures of RUN: its name, a prefix of it, or latest."""
    try:
        if chromium() is None:
            raise InvalidInput("no Chromium on PATH", hint="Debian and Ubuntu: apt-get install chromium")
        settings = read_settings()
        folder = find_run(settings.model_copy(update={"runs": runs}) if runs else settings, run)
        target.mkdir(parents=True, exist_ok=True)
        for picture in take(pages_of(folder), target):
            click.echo(f"wrote {picture} from {folder.name}, {picture.stat().st_size:,} bytes")
    except TutelageError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
