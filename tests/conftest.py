"""What all tests share: how Hypothesis is to behave."""

from hypothesis import HealthCheck, settings

# No deadlines: a busy machine is no fault of the code, and speed is measured in bench/.
settings.register_profile("chatd", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("chatd")
