"""From a caption to the triplets that it states."""
