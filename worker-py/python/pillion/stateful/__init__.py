"""Stateful functions: how they are declared, and how a bundle's columns become their calls and their effects."""
