"""What keeps a training run right across a prune."""
