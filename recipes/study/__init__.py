"""What the studies share: data, networks, runs, rows of results, tables and pictures."""
