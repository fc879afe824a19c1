"""The screen of components, models, engines and the doctor."""
