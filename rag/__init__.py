"""The world: what the quest designer writes, and how the server looks it up.

Knows documents, places, stages and languages. Knows nothing of HTTP.
"""

import heads  # noqa: F401 (which silences onnxruntime before it is loaded)
