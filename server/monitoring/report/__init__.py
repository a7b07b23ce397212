"""What is known of a project's features, as a page: in a file, and live beside the metrics."""
