"""Vision GNNs trained over MPI ranks with pipeline and data parallelism."""
