"""Which filters of which layer go: decided whole, as a value, before anything is cut."""
