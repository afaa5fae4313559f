"""Readers of the files that people keep records in, a record at a time."""
