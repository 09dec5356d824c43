"""One config an experiment; `configs.base` declares every key."""
