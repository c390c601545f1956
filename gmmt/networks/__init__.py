"""Networks: the conditional U of GMMT and its relatives. They know nothing of tracking."""
