"""The compiled simulation: state, physics of a round, and the loops that drive it."""

#: What results are named after. Raised whenever any result changes, which `tests/test_golden.py`
#: notices; a change of comments, documents, reports or commands leaves it as it is.
SIMULATOR_VERSION = 3
