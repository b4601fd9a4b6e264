"""What this library raises when its input, not its code, is at fault."""


class ELCRecError(ValueError):
    """A wrong argument, history or checkpoint; the message names the value and the mend."""
