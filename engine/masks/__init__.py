"""What a manual mask means: which voxels it labels, by number or name, and where they lie."""
