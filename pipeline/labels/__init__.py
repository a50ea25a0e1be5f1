"""Which labels are kept, how many each stage yields, and how they agree with given relations."""
