"""Small architectures that the tests prune: each is listed once, with an input and what must happen to it."""

from zoo.audio import AUDIO
from zoo.case import SPECTROGRAM, Case, Net, conv, conv_bn
from zoo.parts import PARTS
from zoo.plain import FORMS, Residual, separable
from zoo.vision import VISION

__all__ = ["CASES", "SPECTROGRAM", "Case", "Net", "Residual", "conv", "conv_bn", "separable"]

CASES = [*FORMS, *VISION, *AUDIO, *PARTS]
