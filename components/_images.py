"""The images that the components run in; `wentu submit --image` replaces them."""

import os

CPU = os.environ.get("WENTU_IMAGE", "wentu/cpu:0.1.0")
"""Its tag is the version of wentu; a test compares them."""
LIGHT = {"base_image": CPU, "install_kfp_package": False, "packages_to_install": []}
"""Everything is installed in the image; nothing is fetched when a task starts."""
