"""Export of trained models to libraries that run without Python."""
