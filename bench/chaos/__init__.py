"""Faults tried on a gateway under load: what clients saw, and whether anything was wrong or lost.

Rows say whose and which they are, so that each answer can be judged by itself and beside what has
been acknowledged: `model`. Clients and Redis are reached through links that can be broken: `link`.
What is done is in `faults`, and `run` does one after another.
"""
