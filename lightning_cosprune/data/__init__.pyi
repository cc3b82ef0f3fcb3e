from .dataset import SceneBatch as SceneBatch
from .features import FRONT_ENDS as FRONT_ENDS
from .features import FrontEnd as FrontEnd
from .features import LogMel as LogMel
from .fraction import FractionSampler as FractionSampler
from .fraction import nested_fraction as nested_fraction
from .scenes import DCASEScenes as DCASEScenes
from .synthetic import SyntheticScenes as SyntheticScenes
