"""Vision GNN of the study, in torch and without MPI."""
