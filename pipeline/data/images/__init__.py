"""Image files, wherever they lie, opened with care."""
