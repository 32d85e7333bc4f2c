"""Vision GNN of the study, in torch and without MPI."""

from vigmpi.models.study.config import ViGConfig
from vigmpi.models.study.vig import ViG

__all__ = ["ViG", "ViGConfig"]
