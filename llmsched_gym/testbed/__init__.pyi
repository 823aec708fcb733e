from .client import Answer as Answer
from .client import Client as Client
from .client import Rejected as Rejected
from .client import Unavailable as Unavailable
from .clock import Clock as Clock
from .clock import StolenTimeClock as StolenTimeClock
from .clock import WallClock as WallClock
from .prompts import prompt_ids as prompt_ids
