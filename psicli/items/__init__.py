"""From the key texts of a row to the bytes that are compared, and to the bin they belong to."""
