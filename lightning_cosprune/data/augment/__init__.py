"""Random changes to training batches, on the training device; nothing happens outside training.

Each is a module from one :class:`~lightning_cosprune.data.SceneBatch` to another, for ``DCASEScenes(augment=[...])``.
Chance comes from PyTorch's global generator on the CPU, whatever the device, so ``seed_everything`` decides it.
"""
