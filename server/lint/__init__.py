"""`hotfeast lint`: faults in a repository's definitions, found before they are applied."""
