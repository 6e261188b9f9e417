import os

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Binary(BuildHookInterface):
    """Puts an already built devloop among a wheel's scripts, and names the platform that it is for."""

    def initialize(self, version, build_data):
        build_data["shared_scripts"] = {os.environ["DEVLOOP_BINARY"]: "devloop"}
        build_data["tag"] = "py3-none-" + os.environ["DEVLOOP_PLATFORM"]
        build_data["pure_python"] = False
