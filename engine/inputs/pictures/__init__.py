"""Pictures that somebody gives, read as 8-bit sRGB: whole or not at all."""
