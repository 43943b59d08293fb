"""``python -m gdext`` prints build_info() as JSON."""

import json

from gdext import build_info

print(json.dumps(build_info(), indent=2))
