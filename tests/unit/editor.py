"""YAML as editors read it, by version 1.2: ``on`` is a text."""

from __future__ import annotations

import re
from typing import Any

import yaml


class Yaml12(yaml.SafeLoader):
    """Only ``true`` and ``false`` are booleans."""


Yaml12.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in found if tag != "tag:yaml.org,2002:bool"]
    for letter, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Yaml12.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("true|false"), list("tf"))


def data(text: str) -> Any:
    """What a language server sees."""
    return yaml.load(text, Loader=Yaml12)  # noqa: S506 (a SafeLoader)
