"""What judges the study: rows, grid, seeds and tests, stored results, the ledger of claims."""
