"""Maps the nouns of a caption to the box categories of one image."""
