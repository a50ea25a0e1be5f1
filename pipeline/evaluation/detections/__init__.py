"""Files of detections from any source: what they hold, what is wrong with them, and how ours are written."""
