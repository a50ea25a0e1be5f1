"""Prefect drives and shows the chain: one flow a stage, and the whole of it. What is done is decided by the store."""
