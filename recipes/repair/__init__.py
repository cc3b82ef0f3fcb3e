"""Studies of repair: what the removed filters said, said by the kept ones, without training."""
