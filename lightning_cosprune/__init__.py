"""Find, remove and repair redundant filters of audio CNNs with one PyTorch Lightning callback.

The public names, in pipeline order, are listed in the type stub beside this file. They are loaded on first use, so that
``import lightning_cosprune`` costs nothing and imports none of the heavy packages behind them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
