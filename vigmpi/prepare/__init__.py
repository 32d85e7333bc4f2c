"""Brings images into the file that runs read: `vigmpi prepare`."""
