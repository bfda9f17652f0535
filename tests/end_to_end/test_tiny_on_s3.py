"""The tiny recipe with its store in a real S3 server: the same data, models and figures as with a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.end_to_end.command_line import TinyRun, tutelage
from tutelage.contracts import manifest

pytestmark = [pytest.mark.timeout(1800), pytest.mark.slow]
#: A verdict names its run and key, the pages beside it show them.
OF_THIS_RUN = {"decide/verdict", "decide/page", "register/registration"}


def test_the_tiny_recipe_gives_the_digests_of_the_file_store(tiny: TinyRun, s3_location: str, tmp_path: Path) -> None:
    settings = tmp_path / "tutelage.toml"
    settings.write_text(f'runs = "{tmp_path / "runs"}"\nstore = "{s3_location}"\n')
    ended = tutelage(
        "run", "recipes/tiny.yaml", "--json", environment={"TUTELAGE_SETTINGS": str(settings)}, timeout=1500
    )
    assert ended.exit_code == 0, ended.err
    assert ended.json["verdict"] == "PASS"
    there, here = ended.json["artifacts"], tiny.record["artifacts"]
    differ = {name for name in here if there[name]["digest"] != here[name]["digest"]}
    assert there.keys() == here.keys() and differ <= OF_THIS_RUN
    for name, artifact in there.items():
        assert artifact["manifest"].startswith(s3_location), name
        manifest.verify(manifest.read(artifact["manifest"]))
    left = [path.name for path in (tmp_path / "runs").iterdir()]
    assert "store" not in left, "nothing of the store is kept here"
