"""The review page: a local web page on which people judge a run's labels."""
