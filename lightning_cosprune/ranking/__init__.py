"""Which filters say what others say: tensors in, values out, no network."""
