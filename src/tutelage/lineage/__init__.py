"""Lineage: what came from what, across runs. Manifests are the record; ML Metadata is the index that Kubeflow knows."""
