"""Brings images into the file that runs read: `python -m data.prepare`."""
