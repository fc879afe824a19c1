"""Extensions that decide where weights are."""
