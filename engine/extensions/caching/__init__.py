"""Extensions that compute less by using what was computed before."""
