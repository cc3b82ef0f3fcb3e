"""From recordings to features: front ends, extraction, and the cache that keeps them."""
