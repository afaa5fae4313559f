"""Data sets of the hub, in Parquet, and what their columns mean."""
