"""What a volume is, one module a format, and the result that grows on the disk."""
