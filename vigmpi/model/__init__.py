"""The Vision GNN: torch, and no MPI."""

from vigmpi.model.config import ViGConfig
from vigmpi.model.vig import ViG

__all__ = ["ViG", "ViGConfig"]
