"""Publishing a run: the export (tables, one file per occupation, data package), a static site, and the label viewer."""
