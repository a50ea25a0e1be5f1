"""Files of detections, whoever made them: what they hold, what is wrong with them, and how ours are written."""
