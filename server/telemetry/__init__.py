"""What a gateway tells of its calls: stages, spans, a log, and figures by feature service."""
