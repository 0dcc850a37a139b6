"""YAML whose mistakes show."""

from typing import Any

import yaml

__all__ = ["NoDuplicates"]


class NoDuplicates(yaml.SafeLoader):
    """Refuses a name that stands twice in one mapping, of which PyYAML would keep the last.

    Example:
        >>> yaml.load("{dice: 1, dice: 2}", NoDuplicates)
        Traceback (most recent call last):
        yaml.error.YAMLError: 'dice' stands there twice  in "<unicode string>", line 1, column 1:
        ...
    """

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """The mapping that a node describes."""
        merge = "tag:yaml.org,2002:merge"
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != merge]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"{key!r} stands there twice{node.start_mark}")
        return super().construct_mapping(node, deep)
