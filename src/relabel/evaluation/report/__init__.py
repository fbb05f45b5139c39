"""Reports: one HTML file each, with everything in it, that asks nothing of the network and runs no script."""
