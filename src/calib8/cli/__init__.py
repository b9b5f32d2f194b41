"""The `calib8` command: one file per subcommand, and one in `arguments` that says what can be typed behind it.

- `main`: the way in; `boundary`: whatever happens inside, one line says it
- `parser`: the command line as a whole, and which module runs
- `arguments`: options and help of every command; imports nothing that computes
- all others: what a command does when its line is right
"""
