"""Prefect runs and displays the chain: one flow per stage, and one for all. The store alone decides what is done."""

import logging

from flows.error_lines import LOGGERS, in_one_line

for _name in LOGGERS:  # here, because parameters are checked, and complained of, before any flow runs
    logging.getLogger(_name).addFilter(in_one_line)
