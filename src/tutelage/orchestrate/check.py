"""Every mistake of a recipe in one answer, before anything starts. The pipeline's own `check` step asks the same function."""

from __future__ import annotations

from contextlib import chdir
from pathlib import Path

from tutelage.contracts import locations
from tutelage.errors import InvalidInput, Problem
from tutelage.orchestrate.recipes import Recipe
from tutelage.runtimes.settings import Settings
from tutelage.step import repository_root


def check_recipe(recipe: Recipe, settings: Settings, *, here: bool = True) -> list[str]:
    """Labels of the steps that will run. Raises InvalidInput that lists every problem, each with a hint.

    Of this machine only what the run will use is looked at: nothing but sources and model where it runs on a cluster, which
    `here=False` or a section `[cluster]` in the settings says.
    """
    from tutelage.plan.recipe import planned, problems
    from tutelage.plan.surroundings import Surroundings

    runs = Path(settings.runs).absolute()
    surroundings = Surroundings(cache=runs / "cache")
    if here and settings.cluster is None:
        surroundings = Surroundings(
            cache=runs / "cache",
            runs=runs,
            java=True,
            signing_key=settings.signing_key,
            public_keys=settings.public_keys,
        )
    with chdir(repository_root()):
        found = problems(recipe.pipeline, recipe.parameters, surroundings=surroundings)
    found += settings_problems(settings)
    if found:
        raise InvalidInput.from_problems(f"recipe {recipe.name}", found)
    return [item.label for item in planned(recipe.pipeline, recipe.parameters)]


def settings_problems(settings: Settings) -> list[Problem]:
    """What pods cannot work with: places that are gone with them."""
    if settings.cluster is None:
        return []
    found = []
    if settings.store is None or locations.is_local(settings.store):
        what = "payloads would be kept in a pod" if settings.store is None else f"{settings.store} is a folder of a pod"
        found.append(Problem("settings.store", what, "on a cluster set store to a place in the object store, s3://…"))
    if settings.registry is not None and locations.is_local(settings.registry):
        hint = "leave registry out (then it stands in the store) or set it to a place in the object store"
        found.append(Problem("settings.registry", f"{settings.registry} is a file of a pod", hint))
    return found
