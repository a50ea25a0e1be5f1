"""English words: lemmas, closed classes and the canonical form of predicates."""
