"""What widths chosen for a budget bring, beside the same part of every layer and one common error."""
