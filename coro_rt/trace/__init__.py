"""Recording what the scheduler is asked and decides, and deciding it again: see docs/traces.md."""
