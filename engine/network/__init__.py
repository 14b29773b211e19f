"""The plan of the layers, safe model files, contracts, devices."""
