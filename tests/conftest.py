"""What all tests share: Hypothesis puts no limit of time on an example, which the first call of a kernel compiles."""

from hypothesis import settings

settings.register_profile("statemix", deadline=None)
settings.load_profile("statemix")
