"""Several pairs on the same items: the list of them, what stands out, its figures and pages."""
