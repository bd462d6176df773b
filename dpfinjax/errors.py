"""The one exception that stands for a user's mistake."""


class InputError(ValueError):
    """Bad input, told in one sentence: what is wrong, where, and what would be right.

    Launchers print the sentence without a traceback and end with exit code 2.
    """
