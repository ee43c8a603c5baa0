"""Rules whose weights are learned."""
