"""The API as data: what is asked and answered, declared once, and the documents and pages that follow from it."""
