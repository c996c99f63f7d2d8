"""Settings: one table of every setting, and the object that holds their values.

Opens nothing and reads no environment of its own: a mapping is passed in. Celery's names of today and the guide's upper-case
names are both accepted.
"""

from celeriac.config.names import BY_NAME, EVERY
from celeriac.config.setting import Effect, Setting
from celeriac.config.settings import PROFILES, Settings
from celeriac.config.sources import from_environment, from_object, misspelt_variables
from celeriac.config.table import SETTINGS
from celeriac.config.unsupported import UNSUPPORTED

__all__ = [
    "BY_NAME",
    "EVERY",
    "PROFILES",
    "SETTINGS",
    "UNSUPPORTED",
    "Effect",
    "Setting",
    "Settings",
    "from_environment",
    "from_object",
    "misspelt_variables",
]
