"""Starts, watches, restarts and ends the processes of a training (its ranks), on one host or several.

`launcher` runs on the first host and coordinates; `agent` runs on every other host. On one host, the ranks meet through a
file and no port is opened for that. On several, the first host listens on exactly the address of the settings: whoever can
connect to it can disturb the training, so it must be in a network that only the hosts share. Ranks prove a secret to each other.
"""
