"""YAML as strings, lists and mappings: nothing that a file says twice, and nothing that it does not spell out.

Ten lines of YAML can stand for a billion nodes (`*a` of `*a` of `*a`, or `<<` of them), and a scalar that looks like a number
may be one of a million digits. Files of strangers need neither: aliases and anchors are refused, and scalars stay as written,
so 1963 and `yes` are the texts "1963" and "yes".

    python -c "from tutelage.data.plain_yaml import load; print(load('- [1963, yes]'))"
"""

from __future__ import annotations

from typing import Any

import yaml


class _Loader(yaml.BaseLoader):
    """yaml.BaseLoader, which knows no types, and no aliases either."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise yaml.composer.ComposerError(None, None, "aliases and anchors are not read", event.start_mark)
        return super().compose_node(parent, index)


def load(text: str) -> Any:
    """Strings, lists and mappings. Raises yaml.YAMLError, and ValueError, OverflowError or RecursionError for odd characters
    and depths."""
    return yaml.load(text, _Loader)  # noqa: S506  (BaseLoader makes no objects)
