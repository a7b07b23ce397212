"""`hotfeast diff`: what applying a repository's files would change for those who are served."""
