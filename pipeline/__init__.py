"""What each stage of the chain does, how it is planned, run and shown. Knows nothing of Prefect."""
