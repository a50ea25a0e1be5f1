"""WebDataset tars: written reproducibly, indexed in Parquet, and read by offset."""
