"""Small tools that know nothing of scheduling."""
