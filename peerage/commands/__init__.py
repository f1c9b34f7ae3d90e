"""The commands of the command line: declarations here, implementations in `peerage.commands.actions`."""
