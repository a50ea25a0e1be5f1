"""Everything between a recipe and its outcome: steps, planner, runner, progress, and the checks before."""
