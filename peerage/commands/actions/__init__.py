"""The implementations of the commands: functions of the parsed arguments and the command line."""
