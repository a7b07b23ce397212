"""Feature services: one module for each model that reads features."""
