"""Inputs of many files: what makes up an input, and how it is read as one."""
