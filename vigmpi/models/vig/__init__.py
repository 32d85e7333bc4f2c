"""Vision GNNs of Han et al. (NeurIPS 2022), isotropic and pyramid, in torch and without MPI."""
