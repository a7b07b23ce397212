"""Feature views by domain."""
