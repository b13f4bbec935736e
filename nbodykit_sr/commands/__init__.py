"""The commands: each is `main(argv, comm)`, which parses its arguments and runs."""
