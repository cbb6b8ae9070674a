"""The commands of the read model: rebuilding a projection, and looking after what the projectors write."""
