"""Graphs whose nodes are distributed over MPI ranks."""
