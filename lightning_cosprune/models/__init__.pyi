from .classifier import SceneClassifier as SceneClassifier
from .dcase2021 import DCASE2021Baseline as DCASE2021Baseline
from .dcase2022 import DCASE2022Baseline as DCASE2022Baseline
from .yamnet import YAMNet as YAMNet
from .yamnet import read_class_names as read_class_names
from .yamnet_patches import log_mel_patches as log_mel_patches
