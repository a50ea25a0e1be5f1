"""Words of English: lemmas, closed classes, one form for predicates."""
