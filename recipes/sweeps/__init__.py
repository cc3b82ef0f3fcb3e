"""Sweeps over criterion, ratio, repair, share of the data and seed."""
