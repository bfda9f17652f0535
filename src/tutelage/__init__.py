"""Tutelage trains, vets and releases large language models on Kubeflow."""

__version__ = "0.1.0"
