"""Faster models that compute the same function."""
