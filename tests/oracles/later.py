"""What ours is compared with, imported where a test first takes something of it: they cost seven CPU seconds."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class Later:
    """A package by its name; what is taken of it is taken of the package."""

    def __init__(self, package: str) -> None:
        self._package = package

    def __getattr__(self, name: str) -> Any:
        if name.startswith(
            "_"
        ):  # pytest asks whatever a module holds whether it is a test or a fixture
            raise AttributeError(name)
        return getattr(import_module(self._package), name)


diffusers = Later("diffusers")
transformers = Later("transformers")
comfy_layouts = Later("comfy_kitchen.tensor")
comfy_floats = Later("comfy_kitchen.float_utils")
