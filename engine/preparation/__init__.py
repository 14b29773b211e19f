"""From pairs of images and masks to checked sub-volumes."""
