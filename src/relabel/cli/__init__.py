"""The command line: one module per group of commands, which parses options, calls the package and shows the results."""
