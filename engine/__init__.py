"""What makes the pipeline fast, safe and large; the science is in functions.py, which imports from here."""
