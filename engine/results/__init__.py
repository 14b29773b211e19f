"""Kinds of results, their files and pictures, the report."""
