"""Where a step runs, behind one verb: launch()."""

from tutelage.runtimes.launch import launch

__all__ = ["launch"]
