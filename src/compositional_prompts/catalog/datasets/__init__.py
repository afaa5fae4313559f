"""Where images and labels come from; each data set hands rows to the ingestion."""
