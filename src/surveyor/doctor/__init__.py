"""CheckResult what would fail hours later, before a campaign begins: here and on the workers of its pools."""
