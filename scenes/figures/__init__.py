"""Functions that draw one figure of each category with a pen, in units of an adult's height."""
