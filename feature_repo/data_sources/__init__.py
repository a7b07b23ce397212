"""Parquet sources by domain; prepare.py writes the files they name."""
