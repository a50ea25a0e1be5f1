"""Who may open the review page: the gate in front of it, sessions, limits and headers."""
