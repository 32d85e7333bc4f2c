"""Conversion of archives and image folders to a prepared file (`vigmpi prepare`)."""
