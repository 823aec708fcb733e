"""Who decides: schedulers, one module per policy."""
