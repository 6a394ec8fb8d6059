"""What is measured, one module for each kind: each starts a server and generators, gives them their steps, and returns the
result as the report has it. ``stage`` is what they share."""
