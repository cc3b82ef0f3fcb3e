"""Scene recordings as Lightning data modules: any folder in DCASE layout, a synthetic set, parts of training sets."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
