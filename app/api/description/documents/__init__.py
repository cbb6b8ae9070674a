"""The documents that follow from the declarations: OpenAPI and AsyncAPI, and the schemas in both."""
