"""Extensions that steer what is made."""
