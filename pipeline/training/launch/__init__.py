"""Starts, watches, restarts and ends the processes of a training run (its ranks), on one node or several.

`launcher` runs on the coordinator; `agent` runs on every other node. On one node, the ranks meet through a file and no
port is opened for that. On several, the coordinator listens on exactly the address of the settings: anyone who can
connect to it can disturb the training run, so use a private network. Ranks prove to each other that they know a secret.
"""
