"""The clouds that schedules are played over: what differs between them, so that schedules, promises and people do not.

A further cloud is one more module with its `Rental`, and one entry here.
"""

from collections.abc import Mapping

from .jarvis import JARVIS
from .lambda_cloud import LAMBDA
from .modal.cloud import MODAL
from .rental import ACCOUNT_KEY as ACCOUNT_KEY
from .rental import BASE_URL as BASE_URL
from .rental import Rental as Rental
from .rental import Seams as Seams
from .runpod import RUNPOD
from .vast import VAST

RENTALS: Mapping[str, Rental] = {it.name: it for it in (RUNPOD, VAST, LAMBDA, MODAL, JARVIS)}
