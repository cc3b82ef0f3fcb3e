"""The scene data sets by name: where they are, how they are laid out, and a synthetic one."""
