"""Every mistake of a recipe in one answer, before anything starts. The pipeline's own `check` step asks the same function."""

from __future__ import annotations

from contextlib import chdir
from pathlib import Path

from tutelage.errors import InvalidInput
from tutelage.orchestrate.recipes import Recipe
from tutelage.runtimes.settings import Settings
from tutelage.step import repository_root


def check_recipe(recipe: Recipe, settings: Settings) -> list[str]:
    """Labels of the steps that will run. Raises InvalidInput that lists every problem, each with a hint."""
    from tutelage.plan.recipe import planned, problems
    from tutelage.plan.surroundings import Surroundings

    runs = Path(settings.runs).absolute()
    surroundings = Surroundings(
        cache=runs / "cache", runs=runs, java=True, signing_key=settings.signing_key, public_keys=settings.public_keys
    )
    with chdir(repository_root()):
        found = problems(recipe.pipeline, recipe.parameters, surroundings=surroundings)
    if found:
        raise InvalidInput.from_problems(f"recipe {recipe.name}", found)
    return [item.label for item in planned(recipe.pipeline, recipe.parameters)]
