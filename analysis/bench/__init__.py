"""Speed, measured with all contenders in one run: `python -m analysis.bench`."""
