"""Every MPI call of the program: mpi4py and numpy, no torch."""
