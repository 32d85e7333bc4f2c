"""Communication over MPI: topology, messages, reductions, collectives; no torch."""
