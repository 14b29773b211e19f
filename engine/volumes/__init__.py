"""What a volume is, where its voxels lie, and what its grey values are like."""
