"""The kept filters say what the removed ones said, without training."""
