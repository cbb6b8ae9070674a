"""The dashboard in Chromium, on a real engine."""
