"""The command line, as `fovea` and `python -m fovea`."""

import signal


def main() -> None:
    """Run the command that the process was started with."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Ctrl-C ends the imports below without a traceback; commands have a handler of their own
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from pipelines.cli import main as command

    command()


if __name__ == "__main__":
    main()
