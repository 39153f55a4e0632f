"""For all tests: hypothesis judges values, not the speed of the machine it runs on."""

from hypothesis import settings

settings.register_profile("project", deadline=None)
settings.load_profile("project")
