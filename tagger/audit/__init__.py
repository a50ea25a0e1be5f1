"""How good labels are, where the truth is known."""
