"""Starts, watches, restarts and ends the processes of a training (its ranks), on one node or several.

`launcher` runs on the coordinator and coordinates; `agent` runs on every other node. On one node, the ranks meet through a
file and no port is opened for that. On several, the coordinator listens on exactly the address of the settings: whoever can
connect to it can disturb the training, so it must be in a network that only the nodes share. Ranks prove a secret to each other.
"""
