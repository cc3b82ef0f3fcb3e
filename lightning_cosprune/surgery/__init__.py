"""From a plan to a smaller network, its optimizers included, or back to the last bit."""
