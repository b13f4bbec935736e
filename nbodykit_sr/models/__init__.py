"""Networks, their weights and cards."""
