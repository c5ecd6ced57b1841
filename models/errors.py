"""The one exception for what a user can put right."""

import errno

SHORTAGES = {errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
"""Errors of reading a file that say nothing about it: this machine is short of something, or its share is away."""


class FoveaError(ValueError):
    """Bad input, a missing file, a setting that cannot work. The message names the file or field and the way out; the
    command line prints it without a traceback."""
