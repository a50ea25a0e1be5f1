"""A run from recipe to outcome: steps, plan, runner, progress, and the checks before the first step."""
