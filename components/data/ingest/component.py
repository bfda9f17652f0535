"""KFP face of data/ingest."""

from kfp import dsl
from kfp.dsl import Dataset, Output

from tutelage.step import image_of


@dsl.component(base_image=image_of("data/ingest"), install_kfp_package=False)
def ingest(sources: list, documents: Output[Dataset]) -> None:
    """Fetch and read sources into documents with provenance and licence.

    Args:
        sources: List of {name, uri, phase, licence, format, …}; see the component's README.
        documents: Rows of all phases.
    """
    from tutelage.runtimes import launch

    launch("data/ingest", inputs={}, outputs={"documents": documents}, config={"sources": sources})
