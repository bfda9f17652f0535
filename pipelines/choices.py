"""Parameters with a few allowed values; orchestrate/literals.py puts them into what is compiled.

Component or pipeline → parameter → values. A pipeline's parameter becomes a drop-down of the run form; a component's is checked
by KFP before its pod starts, which catches a compiled file that was changed by hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

CHOICES: Mapping[str, Mapping[str, Sequence[str]]] = {
    "train": {"objective": ("pretrain", "sft", "dpo")},
    "evaluate": {"role": ("baseline", "candidate")},
}
