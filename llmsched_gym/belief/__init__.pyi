from .fitting import fit_profile as fit_profile
from .fitting import load_or_fit as load_or_fit
from .profile import BeliefProfile as BeliefProfile
from .profile import BeliefSettings as BeliefSettings
from .profile import Network as Network
