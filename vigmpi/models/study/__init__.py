"""The Vision GNN: torch, and no MPI."""

from vigmpi.models.study.config import ViGConfig
from vigmpi.models.study.vig import ViG

__all__ = ["ViG", "ViGConfig"]
