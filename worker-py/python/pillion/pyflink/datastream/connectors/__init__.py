"""Sinks of the local environment."""
