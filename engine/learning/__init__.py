"""Batches, losses, averages, and the course of a training."""
