"""Live trades of a venue: from its stream into the pipeline, with every hole filled."""
