"""Real speculative decoding on PyTorch and transformers (extra ``live``), one round at a time."""
