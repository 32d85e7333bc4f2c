"""Training of a ViG in which each node is its own and only neighbour: what does the graph add?

Run as `python -m analysis.experiments.own_neighbour` with the options of `vigmpi train`.
"""

import sys

from vigmpi.__main__ import main
from vigmpi.models.vig.variant import NeighbourSearch, Variant
from vigmpi.monitor.activity import Activity

_search = Variant.search


def _one_neighbour(variant: Variant, block: int) -> NeighbourSearch:
    """Return a search for the nearest candidate, which is the node itself."""
    return _search(variant, block)._replace(k=1)


if __name__ == "__main__":
    setattr(Variant, "search", _one_neighbour)  # noqa: B010 (mypy rejects an assignment)
    sys.exit(main(sys.argv[1:], Activity(0)))
