from .classifier import SceneClassifier as SceneClassifier
from .dcase2021 import DCASE2021Baseline as DCASE2021Baseline
from .dcase2022 import DCASE2022Baseline as DCASE2022Baseline
