"""Errors, paths, files, checks and what this machine is. Imports nothing else of tinyclf."""
