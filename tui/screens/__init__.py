"""The screens of the app, one module each; a module is imported when its screen is first opened."""
