"""What a figure was measured on."""

import os
import platform

from runtime.host import cpu_model, num_cores


def describe_machine() -> dict[str, str | int]:
    """CPU model, number of cores this process may use, system, and load when asked."""
    return {
        "cpu": cpu_model(),
        "num_cores": num_cores(),
        "architecture": platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "load_1_min": f"{os.getloadavg()[0]:.2f}",
    }
