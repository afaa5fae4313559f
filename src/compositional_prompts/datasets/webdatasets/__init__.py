"""Data sets in tar files of samples."""
