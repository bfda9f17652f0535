"""The key pair of an installation: made on its first run on a laptop, given by its owners anywhere else."""

from __future__ import annotations

from pathlib import Path

import click

from tutelage.contracts.verdicts import create_key_pair
from tutelage.runtimes.settings import Settings


def with_keys(settings: Settings) -> Settings:
    """`settings` with signing key and public keys; a pair is made below the runs folder where none is set."""
    if settings.signing_key is not None or settings.public_keys is not None:
        return settings
    folder = Path(settings.runs).absolute() / "keys"
    private, public = folder / "signing.pem", folder / "public"
    if not private.is_file():
        create_key_pair(folder)
        click.echo(f"made a signing key for this installation: {private}", err=True)
    return settings.model_copy(update={"signing_key": str(private), "public_keys": str(public)})
