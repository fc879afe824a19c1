"""Videos that somebody gives, read by ffmpeg at the rate and the size of a run."""
