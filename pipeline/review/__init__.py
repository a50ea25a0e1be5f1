"""The review page: a local web page for judging a run's labels."""
