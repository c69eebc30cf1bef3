"""What is predicted from the `<STATE>` vector; the bundle that holds model and heads."""

import os

# from 1.32 on onnxruntime reports its use to Microsoft unless it is told not to before it is loaded
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
