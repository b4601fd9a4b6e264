"""Write the golden files anew; `tests/golden/golden.py` says when one may."""

import os

from tests.golden import golden

for name in [name for name in os.environ if name.startswith("ELCREC_")]:
    del os.environ[name]  # the files are of the settings in settings.toml and in golden.py alone
golden.write()
