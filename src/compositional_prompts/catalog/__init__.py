"""What an image and its labels are: schemas, tables, Parquet shards, splits, and the data sets."""
