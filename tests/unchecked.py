"""The service as it runs with a version of BentoML that nobody has checked.

bentoml serve tests.unchecked:Sensorium
"""

from service import bento

bento.CHECKED["bentoml"] = "<1"

from service.app import Sensorium as Sensorium  # noqa: E402  # it reads what is set above
