"""The `calib8` command: one file per subcommand."""
