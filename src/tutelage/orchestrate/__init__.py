"""Recipes and pipelines brought to life: compile, check, run here. The only place besides pipelines and faces that knows kfp."""
