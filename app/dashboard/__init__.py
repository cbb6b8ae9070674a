"""The dashboard: a static page without a build step, and the JavaScript client that it and others use."""
