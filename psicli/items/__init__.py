"""Converts the key texts of rows to the bytes that are compared, and divides them into bins."""
