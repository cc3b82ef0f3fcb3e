"""Networks for acoustic scene classification, one file a network, and the LightningModule that trains any of them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
