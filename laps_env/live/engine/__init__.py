"""A speculative-decoding engine on PyTorch and transformers, one round at a time."""
