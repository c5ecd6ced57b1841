"""The one exception for what a user can put right."""


class FoveaError(ValueError):
    """Bad input, a missing file, a setting that cannot work. The message names the file or field and the way out; the
    command line prints it without a traceback."""
