"""What a network does with data, beyond what its weights say."""
