"""Python client for Hotfeast gateways. Needs neither Feast nor Redis."""

from hotfeast.clients.client import FeatureClient, FeatureRow, HotfeastError, OnlineFeatures

__all__ = ["FeatureClient", "FeatureRow", "HotfeastError", "OnlineFeatures"]
