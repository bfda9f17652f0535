"""The software bill of materials of each image: images/<image>/sbom.cdx.json, CycloneDX 1.6.

    .venv/bin/python images/sbom.py            # after `make lock`
    .venv/bin/python images/sbom.py --check    # only say whether the files are fresh

Packages, versions and hashes are those of the image's lock, licences those that the installed distributions state. The CUDA
libraries of images/cuda.lock are listed as optional: the CPU build has none. The base image and its distribution's packages
(Java) are not listed here: what scans the registry sees those.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import uuid
from email.parser import HeaderParser
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from cyclonedx.model import Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.model.license import DisjunctiveLicense, License, LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from images.hashes import read_lock
from images.lock import IMAGES, ROOT, image_lock
from tutelage.contracts.licences import from_metadata

TORCH_IMAGES = ("python-torch", "python-serve")
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://cyclonedx.org/schema/bom-1.6")
#: A licence field longer than this is the licence's text, not its name.
NAME_CHARACTERS = 100


def sbom_file(image: str) -> Path:
    """Where the bill of an image stands."""
    return ROOT / "images" / image / "sbom.cdx.json"


def bill(image: str) -> str:
    """The bill of an image as JSON, the same bytes for the same lock."""
    lock, cuda = image_lock(image), ROOT / "images" / "cuda.lock"
    components = [_component(*pin, hashes) for pin, hashes in sorted(read_lock(lock).items())]
    text = lock.read_bytes()
    if image in TORCH_IMAGES:
        text += cuda.read_bytes()
        components += [_component(*pin, hashes, optional=True) for pin, hashes in sorted(read_lock(cuda).items())]
    serial = uuid.uuid5(NAMESPACE, f"{image} {hashlib.sha256(text).hexdigest()}")
    bom = Bom(components=components, serial_number=serial)
    whole = Component(
        name=f"tutelage/{image}",
        type=ComponentType.CONTAINER,
        bom_ref=image,
        licenses=[LicenseExpression("Apache-2.0")],
    )
    bom.metadata.component = whole
    bom.register_dependency(whole, components)
    document = json.loads(JsonV1Dot6(bom).output_as_string())
    del document["metadata"]["timestamp"]
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _component(name: str, version: str, hashes: set[str], *, optional: bool = False) -> Component:
    url = PackageURL("pypi", None, name, version)
    return Component(
        name=name, version=version, type=ComponentType.LIBRARY, purl=url, bom_ref=url.to_string(),
        scope=ComponentScope.OPTIONAL if optional else ComponentScope.REQUIRED,
        licenses=licences(name),
        # The files that the lock accepts, one of which is in the image.
        properties=[Property(name="tutelage:sha256", value=item) for item in sorted(hashes)],
    )  # fmt: skip


def licences(name: str) -> list[License]:
    """What an installed distribution states of its licence; nothing when it is not installed here or does not say.

    An SPDX expression where METADATA leaves no doubt, else its own words.
    """
    try:
        text = distribution(name).read_text("METADATA") or ""
    except PackageNotFoundError:
        return []
    expression = from_metadata(text)
    if expression is not None:
        return [LicenseExpression(expression)]
    headers = HeaderParser().parsestr(text)
    classifiers = {str(item).split(" :: ")[-1] for item in headers.get_all("Classifier") or [] if "License ::" in item}
    words = sorted(classifiers - {"OSI Approved"}) or [str(headers.get("License") or "").strip().partition("\n")[0]]
    return [DisjunctiveLicense(name=item[:NAME_CHARACTERS]) for item in words if item]


def main() -> int:
    """Write or check every bill."""
    parser = argparse.ArgumentParser(description="Write the software bill of materials of each image.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a bill is stale")
    check = parser.parse_args().check
    stale = []
    for image in IMAGES:
        file, text = sbom_file(image), bill(image)
        if not file.is_file() or file.read_text() != text:
            stale.append(str(file.relative_to(ROOT)))
            if not check:
                file.write_text(text)
    if stale:
        print(f"{'error: stale' if check else 'changed'}: {', '.join(stale)}", file=sys.stderr)
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
