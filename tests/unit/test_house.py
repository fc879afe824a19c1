"""How the project is built: what import contracts cannot say."""

from __future__ import annotations

import graphlib

import grimp


def test_no_import_goes_in_a_circle():
    """Imports inside of functions and those for types alone count too."""
    graph = grimp.build_graph("engine", "presets", "store", "tui")
    imported = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert len(imported) > 500
    graphlib.TopologicalSorter(imported).prepare()  # raises CycleError, which names the circle
