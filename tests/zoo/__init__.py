"""A table over architectures: which layer is found, and whether its map is that of plain autograd."""
