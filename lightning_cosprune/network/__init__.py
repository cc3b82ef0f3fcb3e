"""What a network is made of, which layers read which, what it costs, and running it without a trace."""
